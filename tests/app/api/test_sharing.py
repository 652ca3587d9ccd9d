"""Sharing: at once or by an offer, what it allows the other project, and that it ends at once."""

from typing import Any

import pytest

from app.lifecycle import ProjectRole
from tests.support.gateway import ADMIN, MEMBER, READER, STRANGER, Gateway
from tests.support.sharing import SHARE, act, done, far_away, feed_of, mistake, neighbour, sees, share

pytestmark = pytest.mark.anyio

CAN = "query ($id: ID!) { image(by: {id: $id}) { viewerCan { launch edit share delete } } }"
OFFERS = f"query ($id: ID!) {{ project(id: $id) {{ shareOffers(first: 10) {{ totalCount nodes {{ {SHARE} }} }} }} }}"
LIST = """query ($id: ID!, $filter: ImageFilter, $order: ImageOrder, $first: Int, $after: String) {
  images(projectId: $id, filter: $filter, orderBy: $order, first: $first, after: $after) {
    totalCount pageInfo { hasNextPage endCursor } nodes { id name visibility viewerCan { edit } project { id } } } }"""


async def listed(gateway: Gateway, project: str, subject: str = STRANGER, **given: Any) -> list[str]:
    found = (await gateway.ask(LIST, subject, id=project, first=100, **given))["images"]
    assert found["totalCount"] == len(found["nodes"])
    return [node["name"] for node in found["nodes"]]


# ---------------------------------------------------------------- at once


async def test_who_administers_both_projects_shares_at_once(gateway: Gateway) -> None:
    other = await gateway.project()
    image = await gateway.active(name="golden")
    made = await share(gateway, image, other, "LAUNCH_AND_EDIT")
    assert (made["state"], made["grant"], made["sharedBy"], made["revision"]) == (
        "ACCEPTED", "LAUNCH_AND_EDIT", ADMIN, 1,
    )  # fmt: skip
    assert made["image"] == {"id": image["id"], "name": "golden", "visibility": "SHARED"}
    assert made["project"]["id"] == other
    assert await listed(gateway, other, ADMIN) == ["golden"]


async def test_visibility_follows_the_facts(gateway: Gateway) -> None:
    first, second = await gateway.project(), await neighbour(gateway)
    image = await gateway.active()
    revision = (await gateway.image(image["id"])).revision
    await share(gateway, image, second, offer=True)
    assert (await gateway.image(image["id"])).visibility == "PROJECT"
    made = await share(gateway, image, first)
    assert (await gateway.image(image["id"])).visibility == "SHARED"
    assert (await gateway.image(image["id"])).revision == revision + 1
    await done(gateway, "revokeImageShare", shareId=made["id"])
    assert (await gateway.image(image["id"])).visibility == "PROJECT"


async def test_to_share_the_same_again_changes_nothing(gateway: Gateway) -> None:
    other = await gateway.project()
    image = await gateway.active()
    made = await share(gateway, image, other)
    before = await gateway.everything()
    assert await share(gateway, image, other) == made
    assert await gateway.everything() == before


async def test_another_grant_needs_an_update_which_says_so(gateway: Gateway) -> None:
    other = await gateway.project()
    image = await gateway.active()
    made = await share(gateway, image, other)
    wrong = {"imageId": image["id"], "projectId": other, "grant": "LAUNCH_AND_EDIT"}
    refused = await mistake(gateway, "shareImage", **wrong)
    assert (refused["code"], refused["field"]) == ("CONFLICT", ["grant"])
    assert "updateImageShare" in refused["hint"]
    updated = await done(
        gateway, "updateImageShare", give=f"share {{ {SHARE} }}", shareId=made["id"], grant="LAUNCH_AND_EDIT"
    )
    assert (updated["grant"], updated["revision"]) == ("LAUNCH_AND_EDIT", 2)


@pytest.mark.parametrize("name", ["updateImageShare", "revokeImageShare", "acceptImageShare", "declineImageShare"])
async def test_who_expects_another_revision_of_a_share_changes_nothing(gateway: Gateway, name: str) -> None:
    other = await gateway.project()
    made = await share(gateway, await gateway.active(), other)
    given = {"grant": "LAUNCH_AND_EDIT"} if name == "updateImageShare" else {}
    refused = await mistake(gateway, name, shareId=made["id"], expectedRevision=2, **given)
    assert (refused["code"], refused["field"]) == ("STALE_REVISION", ["expectedRevision"])
    await done(gateway, name, shareId=made["id"], expectedRevision=1, **given)


# ---------------------------------------------------------------- what can't be shared


async def test_only_a_custom_active_image_can_be_shared(gateway: Gateway) -> None:
    other = await gateway.project()
    waiting, failed, snapshot = await gateway.create(), await gateway.failed(), await gateway.active()
    await gateway.change(type(await gateway.image(snapshot["id"])), snapshot["id"], type="SNAPSHOT")
    codes = [
        (await mistake(gateway, "shareImage", imageId=image["id"], projectId=other, grant="LAUNCH"))["code"]
        for image in (waiting, failed, snapshot)
    ]
    assert codes == ["NOT_READY", "NOT_READY", "INVALID"]


async def test_an_image_is_not_shared_with_its_own_project(gateway: Gateway) -> None:
    image = await gateway.active()
    refused = await mistake(gateway, "shareImage", imageId=image["id"], projectId=gateway.alpha, grant="LAUNCH")
    assert (refused["code"], refused["field"]) == ("INVALID", ["projectId"])


async def test_another_organization_is_refused_as_a_project_that_does_not_exist_is(gateway: Gateway) -> None:
    image = await gateway.active()
    given = {"imageId": image["id"], "grant": "LAUNCH", "offer": True}
    foreign = await mistake(gateway, "shareImage", projectId=await far_away(gateway), **given)
    assert (foreign["code"], foreign["field"]) == ("DIFFERENT_ORGANIZATION", ["projectId"])
    assert "planned" in foreign["hint"]
    assert await mistake(gateway, "shareImage", projectId=f"prj_{'0' * 26}", **given) == foreign
    for none_of_ours in (image["id"], "beta", "", "prj_%"):
        refused = await mistake(gateway, "shareImage", projectId=none_of_ours, **given)
        assert (refused["code"], refused["field"]) == ("NOT_FOUND", ["projectId"])


# ---------------------------------------------------------------- by an offer


async def test_the_error_of_a_caller_who_does_not_administer_the_target_suggests_offer(gateway: Gateway) -> None:
    image = await gateway.active()
    refused = await mistake(gateway, "shareImage", imageId=image["id"], projectId=gateway.beta, grant="LAUNCH")
    assert (refused["code"], refused["field"]) == ("NOT_TARGET_ADMIN", ["projectId"])
    assert "offer: true" in refused["hint"]


@pytest.mark.parametrize("role", [ProjectRole.READER, ProjectRole.MEMBER])
async def test_a_lesser_role_in_the_target_does_not_suffice(gateway: Gateway, role: ProjectRole) -> None:
    other = await neighbour(gateway)
    await done(gateway, "setProjectMember", STRANGER, projectId=other, subject=ADMIN, role=role)
    image = await gateway.active()
    refused = await mistake(gateway, "shareImage", imageId=image["id"], projectId=other, grant="LAUNCH")
    assert refused["code"] == "NOT_TARGET_ADMIN"


async def test_admins_of_the_target_see_an_offer_and_only_the_name_of_the_image(
    gateway: Gateway,
) -> None:
    other = await neighbour(gateway, **{READER: ProjectRole.READER, MEMBER: ProjectRole.MEMBER})
    image = await gateway.active(name="offered")
    made = await share(gateway, image, other, offer=True)
    assert made["state"] == "OFFERED"
    offers = (await gateway.ask(OFFERS, STRANGER, id=other))["project"]["shareOffers"]
    assert offers["totalCount"] == 1
    assert offers["nodes"][0] == made | {"image": None}
    assert not await sees(gateway, STRANGER, image)
    assert await listed(gateway, other) == []
    outsiders = await neighbour(gateway, outsider=ProjectRole.READER)
    assert (await gateway.ask(OFFERS, "outsider", id=outsiders))["project"]["shareOffers"] is None
    assert (await gateway.refused(OFFERS, "outsider", id=other))["code"] == "NOT_FOUND"


async def test_an_offer_that_is_accepted_is_a_share(gateway: Gateway) -> None:
    other = await neighbour(gateway)
    image = await gateway.active(name="offered")
    made = await share(gateway, image, other, "LAUNCH_AND_EDIT", offer=True)
    accepted = await done(gateway, "acceptImageShare", STRANGER, give=f"share {{ {SHARE} }}", shareId=made["id"])
    assert (accepted["state"], accepted["revision"]) == ("ACCEPTED", 2)
    assert accepted["image"]["visibility"] == "SHARED"
    assert await listed(gateway, other) == ["offered"]
    before = await gateway.everything()
    await done(gateway, "acceptImageShare", STRANGER, shareId=made["id"])
    assert await gateway.everything() == before


async def test_an_offer_that_is_declined_can_be_made_again(gateway: Gateway) -> None:
    other = await neighbour(gateway)
    image = await gateway.active()
    made = await share(gateway, image, other, offer=True)
    await done(gateway, "declineImageShare", STRANGER, shareId=made["id"])
    refused = await mistake(gateway, "acceptImageShare", STRANGER, shareId=made["id"])
    assert (refused["code"], refused["hint"]) == ("CONFLICT", "Ask an admin of the image's project to offer it again.")
    again = await share(gateway, image, other, "LAUNCH_AND_EDIT", offer=True)
    assert (again["id"], again["state"], again["grant"]) == (made["id"], "OFFERED", "LAUNCH_AND_EDIT")
    assert (await gateway.ask(OFFERS, STRANGER, id=other))["project"]["shareOffers"]["totalCount"] == 1


async def test_a_project_finds_and_gives_up_what_it_accepted(gateway: Gateway) -> None:
    other = await neighbour(gateway, guest=ProjectRole.READER)
    image = await gateway.active()
    made = await share(gateway, image, other, "LAUNCH_AND_EDIT", offer=True)
    document = """query ($id: ID!) { project(id: $id) { acceptedShares(first: 5) {
        totalCount nodes { id grant image { id } } } } }"""
    empty = await gateway.ask(document, "guest", id=other)
    assert empty["project"]["acceptedShares"] == {"totalCount": 0, "nodes": []}
    await done(gateway, "acceptImageShare", STRANGER, shareId=made["id"])
    found = (await gateway.ask(document, "guest", id=other))["project"]["acceptedShares"]["nodes"]
    assert found == [{"id": made["id"], "grant": "LAUNCH_AND_EDIT", "image": {"id": image["id"]}}]
    await done(gateway, "declineImageShare", STRANGER, shareId=made["id"])
    assert not await sees(gateway, STRANGER, image)
    assert (await gateway.image(image["id"])).visibility == "PROJECT"


async def test_the_image_s_side_can_not_answer_its_own_offer(gateway: Gateway) -> None:
    made = await share(gateway, await gateway.active(), await neighbour(gateway), offer=True)
    for name in ("acceptImageShare", "declineImageShare"):
        refused = await mistake(gateway, name, shareId=made["id"])
        assert (refused["code"], refused["field"]) == ("NOT_TARGET_ADMIN", ["shareId"])


# ---------------------------------------------------------------- what a share allows


@pytest.mark.parametrize(
    ("role", "grant", "launch", "edit"),
    [
        (ProjectRole.READER, "LAUNCH_AND_EDIT", False, False),
        (ProjectRole.MEMBER, "LAUNCH", True, False),
        (ProjectRole.MEMBER, "LAUNCH_AND_EDIT", True, True),
        (ProjectRole.ADMIN, "LAUNCH", True, False),
        (ProjectRole.ADMIN, "LAUNCH_AND_EDIT", True, True),
    ],
)
async def test_what_may_be_done_through_a_share(
    gateway: Gateway, role: ProjectRole, grant: str, launch: bool, edit: bool
) -> None:
    other = await gateway.project()
    await done(gateway, "setProjectMember", projectId=other, subject="guest", role=role)
    image = await gateway.active()
    await share(gateway, image, other, grant)
    can = (await gateway.ask(CAN, "guest", id=image["id"]))["image"]["viewerCan"]
    assert can == {"launch": launch, "edit": edit, "share": False, "delete": False}
    changed = await act(gateway, "updateImage", "guest", imageId=image["id"], name="theirs", labels=[])
    assert [error["code"] for error in changed["userErrors"]] == ([] if edit else ["FORBIDDEN"])
    assert (await gateway.image(image["id"])).name == ("theirs" if edit else "disk")
    for name, given in (
        ("updateImage", {"protected": True}),
        ("updateImage", {"protected": False, "name": "theirs"}),
        ("deleteImage", {}),
        ("retryImage", {}),
        ("shareImage", {"projectId": gateway.beta, "grant": "LAUNCH", "offer": True}),
    ):
        refused = await mistake(gateway, name, "guest", imageId=image["id"], **given)
        assert refused["code"] == "FORBIDDEN", name


async def test_permissions_are_those_in_the_project_that_is_queried(gateway: Gateway) -> None:
    other = await gateway.project()
    image = await gateway.active(name="golden")
    await share(gateway, image, other)
    found = (await gateway.ask(LIST, ADMIN, id=other, first=1))["images"]["nodes"]
    assert found[0]["viewerCan"] == {"edit": False}
    assert found[0]["project"] == {"id": gateway.alpha}
    here = (await gateway.ask(LIST, ADMIN, id=gateway.alpha, first=1))["images"]["nodes"]
    assert here[0]["viewerCan"] == {"edit": True}
    headers = {**gateway.credentials(ADMIN), "X-Project": other}
    asked = {"query": CAN, "variables": {"id": image["id"]}}
    answer = await gateway.client.post("/graphql", json=asked, headers=headers)
    assert answer.json()["data"]["image"]["viewerCan"]["edit"] is False
    assert (await gateway.ask(CAN, ADMIN, id=image["id"]))["image"]["viewerCan"]["edit"] is True


async def test_through_a_share_one_sees_neither_the_owner_nor_the_other_shares(gateway: Gateway) -> None:
    other = await neighbour(gateway)
    image = await gateway.active()
    made = await share(gateway, image, other, offer=True)
    await done(gateway, "acceptImageShare", STRANGER, shareId=made["id"])
    document = """query ($id: ID!) { image(by: {id: $id}) {
        id project { id } shares(first: 5) { totalCount } download { url } source { __typename } } }"""
    found = (await gateway.ask(document, STRANGER, id=image["id"]))["image"]
    assert (found["project"], found["shares"]) == (None, None)
    assert found["download"]["url"].startswith("http")
    upload = image["upload"]["id"]
    assert (await gateway.refused("query ($id: ID!) { node(id: $id) { id } }", STRANGER, id=upload))["code"] == (
        "NOT_FOUND"
    )


async def test_the_owner_lists_shares_page_by_page(gateway: Gateway) -> None:
    image = await gateway.active()
    made = [await share(gateway, image, await gateway.project()) for _ in range(3)]
    document = f"""query ($id: ID!, $after: String) {{ image(by: {{id: $id}}) {{ shares(first: 2, after: $after) {{
        totalCount nodes {{ {SHARE} }} pageInfo {{ hasNextPage endCursor }} }} }} }}"""
    first = (await gateway.ask(document, READER, id=image["id"]))["image"]["shares"]
    rest = (await gateway.ask(document, READER, id=image["id"], after=first["pageInfo"]["endCursor"]))["image"]
    assert first["totalCount"] == 3
    assert [node["id"] for node in first["nodes"] + rest["shares"]["nodes"]] == [each["id"] for each in made]
    assert rest["shares"]["pageInfo"]["hasNextPage"] is False


async def test_of_a_project_that_one_does_not_belong_to_a_share_shows_the_name_alone(gateway: Gateway) -> None:
    other = await neighbour(gateway)
    made = await share(gateway, await gateway.active(), other, offer=True)
    document = """query ($id: ID!) { node(id: $id) { ... on ImageShare { project {
        name viewerRole quota { snapshotsPerVolume } members(first: 1) { totalCount }
        shareOffers(first: 1) { totalCount } organization { name } } } } }"""
    project = (await gateway.ask(document, ADMIN, id=made["id"]))["node"]["project"]
    assert project.pop("name").startswith("project ")
    assert project.pop("organization") == {"name": "demo"}
    assert set(project.values()) == {None}


# ---------------------------------------------------------------- lists


async def test_shared_images_are_listed_among_one_s_own_in_every_order(gateway: Gateway) -> None:
    mine, theirs = await gateway.project(), await gateway.project()
    names = ["a", "b", "c", "d", "e"]
    for at, name in enumerate(names):
        image = await gateway.active(name=name, projectId=mine if at % 2 else theirs, virtual_size=(9 - at) << 30)
        if not at % 2:
            await share(gateway, image, mine)
    assert await listed(gateway, mine, ADMIN, order={"field": "NAME", "direction": "ASC"}) == names
    assert await listed(gateway, mine, ADMIN) == names[::-1]
    assert await listed(gateway, mine, ADMIN, order={"field": "SIZE", "direction": "ASC"}) == names[::-1]
    assert await listed(gateway, mine, ADMIN, filter={"visibilities": ["SHARED"]}) == ["e", "c", "a"]
    assert await listed(gateway, mine, ADMIN, filter={"statuses": ["ACTIVE"], "nameContains": "C"}) == ["c"]
    assert await listed(gateway, mine, ADMIN, filter={"statuses": ["ERROR"]}) == []
    for order in ("NAME", "CREATED_AT", "SIZE", "STATUS", "TYPE"):
        assert sorted(await paged(gateway, mine, {"field": order, "direction": "DESC"})) == names


async def paged(gateway: Gateway, project: str, order: dict[str, str]) -> list[str]:
    """Names of images, read in pages of two."""
    names: list[str] = []
    after = None
    while True:
        page = (await gateway.ask(LIST, ADMIN, id=project, order=order, first=2, after=after))["images"]
        names += [node["name"] for node in page["nodes"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            return names


async def test_a_shared_image_is_found_by_its_name_after_one_s_own(gateway: Gateway) -> None:
    mine, theirs = await gateway.project(), await gateway.project()
    image = await gateway.active(name="golden", projectId=theirs)
    await share(gateway, image, mine)
    document = 'query ($id: ID!) { image(by: {name: {projectId: $id, name: "Golden"}}) { id viewerCan { edit } } }'
    found = (await gateway.ask(document, id=mine))["image"]
    assert found == {"id": image["id"], "viewerCan": {"edit": False}}
    own = await gateway.create(name="golden", projectId=mine)
    assert (await gateway.ask(document, id=mine))["image"]["id"] == own["id"]


# ---------------------------------------------------------------- the end of a share


async def test_a_share_that_is_revoked_is_gone_at_once(gateway: Gateway) -> None:
    other = await neighbour(gateway)
    image = await gateway.active()
    made = await share(gateway, image, other, offer=True)
    await done(gateway, "acceptImageShare", STRANGER, shareId=made["id"])
    payload = await act(gateway, "revokeImageShare", give="revokedShareId share { id state }", shareId=made["id"])
    assert payload["revokedShareId"] == made["id"]
    assert payload["share"] == {"id": made["id"], "state": "ACCEPTED"}
    assert not await sees(gateway, STRANGER, image)
    assert await listed(gateway, other) == []
    refused = await mistake(gateway, "acceptImageShare", STRANGER, shareId=made["id"])
    assert refused["code"] == "NOT_FOUND"


async def test_with_an_image_its_shares_and_offers_go(gateway: Gateway) -> None:
    taken, asked = await gateway.project(), await neighbour(gateway)
    image = await gateway.active()
    await share(gateway, image, taken)
    offer = await share(gateway, image, asked, offer=True)
    await done(gateway, "deleteImage", imageId=image["id"])
    assert [event["__typename"] for event in await feed_of(gateway, taken, image)][-1] == "ImageDeleted"
    event = (await feed_of(gateway, asked, image, STRANGER))[-1]
    assert (event["__typename"], event["state"], event["share"]) == ("ImageShareChanged", None, None)
    assert (event["imageName"], event["grant"], event["project"]) == ("disk", "LAUNCH", {"id": asked})
    assert (await gateway.ask(OFFERS, STRANGER, id=asked))["project"]["shareOffers"]["totalCount"] == 0
    assert (await mistake(gateway, "declineImageShare", STRANGER, shareId=offer["id"]))["code"] == "NOT_FOUND"


# ---------------------------------------------------------------- events in the feed


async def test_both_projects_receive_the_event_of_a_share_with_its_actor(gateway: Gateway) -> None:
    other = await neighbour(gateway)
    image = await gateway.active()
    before = len(await feed_of(gateway, gateway.alpha, image))
    made = await share(gateway, image, other, offer=True)
    await done(gateway, "acceptImageShare", STRANGER, shareId=made["id"])
    await done(gateway, "updateImage", imageId=image["id"], name="new")
    await done(gateway, "revokeImageShare", shareId=made["id"])
    await done(gateway, "updateImage", imageId=image["id"], name="newer")
    theirs = [summary(event) for event in await feed_of(gateway, other, image, STRANGER)]
    assert theirs == [
        ("ImageShareChanged", "OFFERED", ADMIN, False),
        ("ImageShareChanged", "ACCEPTED", STRANGER, False),
        ("ImageUpdated", "visibility", STRANGER, False),
        ("ImageUpdated", "name", ADMIN, False),
        ("ImageShareChanged", None, ADMIN, False),
    ]
    ours = [summary(event) for event in (await feed_of(gateway, gateway.alpha, image))[before:]]
    assert ours == [
        ("ImageShareChanged", "OFFERED", ADMIN, True),
        ("ImageShareChanged", "ACCEPTED", STRANGER, True),
        ("ImageUpdated", "visibility", STRANGER, True),
        ("ImageUpdated", "name", ADMIN, True),
        ("ImageShareChanged", None, ADMIN, True),
        ("ImageUpdated", "visibility", ADMIN, True),
        ("ImageUpdated", "name", ADMIN, True),
    ]


def summary(event: dict[str, Any]) -> tuple[Any, ...]:
    what = event["fields"][0] if "fields" in event else event.get("state")
    return event["__typename"], what, event["actor"], event["image"] is not None


async def test_only_admins_receive_the_event_of_an_offer(gateway: Gateway) -> None:
    other = await neighbour(gateway, guest=ProjectRole.MEMBER)
    image = await gateway.active()
    made = await share(gateway, image, other, offer=True)
    assert await feed_of(gateway, other, image, "guest") == []
    assert len(await feed_of(gateway, other, image, STRANGER)) == 1
    await done(gateway, "acceptImageShare", STRANGER, shareId=made["id"])
    (accepted, updated) = await feed_of(gateway, other, image, "guest")
    assert (accepted["state"], accepted["share"]) == ("ACCEPTED", {"id": made["id"]})
    assert updated["image"] == {"id": image["id"]}


async def test_the_feed_is_paged_back_through_as_history(gateway: Gateway) -> None:
    project = await gateway.project()
    image = await gateway.active(projectId=project)
    for number in range(5):
        await done(gateway, "updateImage", imageId=image["id"], name=f"name {number}")
    document = """query ($id: ID!, $before: EventCursor, $after: EventCursor) {
        imageEvents(projectId: $id, last: 4, before: $before, after: $after) {
          nodes { cursor actor } pageInfo { hasNextPage hasPreviousPage startCursor } } }"""
    everything = (await gateway.ask(
        "query ($id: ID!) { imageEvents(projectId: $id, first: 100) { nodes { cursor actor } } }", id=project
    ))["imageEvents"]["nodes"]  # fmt: skip
    assert {node["actor"] for node in everything} == {ADMIN, None}
    back: list[Any] = []
    before = None
    while True:
        page = (await gateway.ask(document, id=project, before=before))["imageEvents"]
        back = page["nodes"] + back
        assert page["pageInfo"]["hasNextPage"] is (before is not None)
        before = page["pageInfo"]["startCursor"]
        if not page["pageInfo"]["hasPreviousPage"]:
            break
    assert back == everything
    between = await gateway.ask(document, id=project, before=everything[5]["cursor"], after=everything[2]["cursor"])
    assert between["imageEvents"]["nodes"] == everything[3:5]
