"""Who may do what: every operation of the schema, for every kind of caller."""

from typing import Any

import pytest

from app.lifecycle import ProjectRole
from tests.support.gateway import ADMIN, CREATE, MEMBER, READER, STRANGER, Gateway

pytestmark = pytest.mark.anyio

# Queries, and the variable that names the object that they read.
READS = {
    "project": "query ($id: ID!) { project(id: $id) { id name } }",
    "images": "query ($id: ID!) { images(projectId: $id, first: 1) { totalCount nodes { id } } }",
    "imageEvents": "query ($id: ID!) { imageEvents(projectId: $id, first: 1) { nodes { imageId } } }",
    "imageByName": 'query ($id: ID!) { image(by: {name: {projectId: $id, name: "disk"}}) { id } }',
    "image": "query ($id: ID!) { image(by: {id: $id}) { id } }",
    "nodeOfImage": "query ($id: ID!) { node(id: $id) { id } }",
    "nodeOfProject": "query ($id: ID!) { node(id: $id) { id } }",
    "nodeOfUpload": "query ($id: ID!) { node(id: $id) { id } }",
}
ABSENT = {"prj": f"prj_{'0' * 26}", "img": f"img_{'0' * 26}", "upl": f"upl_{'0' * 26}"}
CHANGES = ("createImage", "completeUpload", "abortUpload", "retryImage", "updateImage", "deleteImage")
ALLOWED = [(MEMBER, name) for name in CHANGES] + [(ADMIN, name) for name in CHANGES]


def target(gateway: Gateway, operation: str, image: dict[str, Any]) -> str:
    """The id of the object that a query reads."""
    if operation in ("image", "nodeOfImage"):
        return str(image["id"])
    return str(image["upload"]["id"]) if operation == "nodeOfUpload" else gateway.alpha


def change_of(gateway: Gateway, name: str, image: dict[str, Any]) -> dict[str, Any]:
    """The input of a mutation of an image (or of the project alpha)."""
    return {
        "createImage": gateway.creation(),
        "completeUpload": {"uploadId": image["upload"]["id"]},
        "abortUpload": {"uploadId": image["upload"]["id"]},
        "retryImage": {"imageId": image["id"]},
        "updateImage": {"imageId": image["id"], "name": "other"},
        "deleteImage": {"imageId": image["id"]},
    }[name]


async def suited(gateway: Gateway, name: str) -> dict[str, Any]:
    """An image that the mutation can change."""
    if name == "retryImage":
        return await gateway.failed()
    image = await gateway.create()
    if name == "completeUpload":
        await gateway.send(image, b"\1" * 2**20)
    return image


@pytest.mark.parametrize("operation", READS)
@pytest.mark.parametrize("subject", [ADMIN, MEMBER, READER])
async def test_every_role_in_the_project_can_read(gateway: Gateway, subject: str, operation: str) -> None:
    image = await gateway.create()
    data = await gateway.ask(READS[operation], subject, id=target(gateway, operation, image))
    assert all(value is not None for value in data.values())


@pytest.mark.parametrize("operation", READS)
async def test_what_a_stranger_asks_for_is_answered_as_what_does_not_exist(gateway: Gateway, operation: str) -> None:
    id_ = target(gateway, operation, await gateway.create())
    hidden = await gateway.refused(READS[operation], STRANGER, id=id_)
    absent = await gateway.refused(READS[operation], STRANGER, id=ABSENT[id_[:3]])
    assert hidden["code"] == "NOT_FOUND"
    assert without_correlation(hidden) == without_correlation(absent)


def without_correlation(error: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in error.items() if name != "correlationId"}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_stranger_changes_nothing_and_learns_nothing(gateway: Gateway, name: str) -> None:
    image = await suited(gateway, name)
    given = change_of(gateway, name, image)
    hidden = await gateway.mistake(name, given, STRANGER)
    key = next(key for key in ("projectId", "uploadId", "imageId") if key in given)
    absent = await gateway.mistake(name, given | {key: ABSENT[given[key][:3]]}, STRANGER)
    assert hidden["code"] == "NOT_FOUND"
    assert hidden["field"] == [key]
    assert hidden == absent


@pytest.mark.parametrize("name", CHANGES)
async def test_the_error_of_a_reader_names_the_role_member(gateway: Gateway, name: str) -> None:
    image = await suited(gateway, name)
    mistake = await gateway.mistake(name, change_of(gateway, name, image), READER)
    assert mistake["code"] == "FORBIDDEN"
    assert "MEMBER" in mistake["message"]
    assert "READER" in mistake["message"]
    assert mistake["hint"] == "Ask an admin of the project for the role."
    assert mistake["field"] in (["projectId"], ["uploadId"], ["imageId"])


@pytest.mark.parametrize(("subject", "name"), ALLOWED)
async def test_members_and_admins_can_change_images(gateway: Gateway, subject: str, name: str) -> None:
    image = await suited(gateway, name)
    payload = await gateway.mutate(name, change_of(gateway, name, image), subject)
    assert payload["userErrors"] == []
    assert payload["cursor"]


@pytest.mark.parametrize(
    "document",
    [
        "{ viewer { id } }",
        "{ eventCursor }",
        '{ node(id: "usr_") { id } }',
        '{ nodes(ids: ["usr_"]) { id } }',
        '{ project(id: "x") { id } }',
        '{ images(projectId: "x", first: 1) { totalCount } }',
        '{ image(by: {id: "x"}) { id } }',
        '{ imageEvents(projectId: "x", first: 1) { nodes { imageId } } }',
        "{ __typename eventCursor }",
        'mutation { deleteImage(input: {imageId: "x"}) { cursor } }',
        'mutation { createImage(input: {projectId: "x", name: "x", source: {}}) { cursor } }',
        'mutation { query: __typename deleteImage(input: {imageId: "x"}) { query { __typename } } }',
    ],
)
async def test_without_a_token_nothing_can_be_asked_but_the_schema(gateway: Gateway, document: str) -> None:
    error = await gateway.refused(document, None)
    assert error["code"] == "UNAUTHENTICATED"


async def test_without_a_token_the_schema_can_be_read(gateway: Gateway) -> None:
    data = await gateway.ask("{ __schema { queryType { name } } __typename }", None)
    assert data == {"__schema": {"queryType": {"name": "Query"}}, "__typename": "Query"}


async def test_a_token_that_does_not_hold_is_refused_before_anything_is_read(gateway: Gateway) -> None:
    response = await gateway.client.post(
        "/graphql", json={"query": "{ __typename }"}, headers={"Authorization": "Bearer forged"}
    )
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("subject", "role", "launch", "edit"),
    [(ADMIN, "ADMIN", True, True), (MEMBER, "MEMBER", True, True), (READER, "READER", False, False)],
)
async def test_an_image_says_what_its_viewer_may_do(
    gateway: Gateway, subject: str, role: str, launch: bool, edit: bool
) -> None:
    image = await gateway.active()
    document = """query ($id: ID!) { image(by: {id: $id}) {
        viewerCan { launch edit delete } download { method url } project { viewerRole } } }"""
    found = (await gateway.ask(document, subject, id=image["id"]))["image"]
    assert found["viewerCan"] == {"launch": launch, "edit": edit, "delete": edit}
    assert found["project"]["viewerRole"] == role
    assert found["download"]["method"] == "GET"


async def test_a_reader_sees_parts_but_no_way_to_send_them(gateway: Gateway) -> None:
    image = await gateway.create()
    document = """query ($id: ID!) { image(by: {id: $id}) {
        upload { parts(first: 1) { nodes { number request { url } } } } } }"""
    as_reader = await gateway.ask(document, READER, id=image["id"])
    as_member = await gateway.ask(document, MEMBER, id=image["id"])
    assert as_reader["image"]["upload"]["parts"]["nodes"] == [{"number": 1, "request": None}]
    assert as_member["image"]["upload"]["parts"]["nodes"][0]["request"]["url"].startswith("http://gateway/objects/")


async def test_viewers_see_themselves_and_the_projects_that_are_theirs(gateway: Gateway) -> None:
    document = """{ viewer { id subject name projects(first: 5) { totalCount nodes {
        name viewerRole organization { name projects(first: 5) { totalCount nodes { name } } } } } } }"""
    viewer = (await gateway.ask(document, STRANGER))["viewer"]
    assert (viewer["id"], viewer["subject"], viewer["name"]) == ("usr_sam", "sam", None)
    (project,) = viewer["projects"]["nodes"]
    assert (project["name"], project["viewerRole"]) == ("beta", "ADMIN")
    assert project["organization"] == {"name": "demo", "projects": {"totalCount": 1, "nodes": [{"name": "beta"}]}}


async def test_members_of_a_project_are_listed_page_by_page(gateway: Gateway) -> None:
    document = """query ($id: ID!, $after: String) { project(id: $id) { members(first: 2, after: $after) {
        totalCount nodes { subject role } pageInfo { hasNextPage endCursor } } } }"""
    first = (await gateway.ask(document, READER, id=gateway.alpha))["project"]["members"]
    rest = await gateway.ask(document, READER, id=gateway.alpha, after=first["pageInfo"]["endCursor"])
    nodes = first["nodes"] + rest["project"]["members"]["nodes"]
    assert first["totalCount"] == 3
    assert first["pageInfo"]["hasNextPage"] is True
    assert rest["project"]["members"]["pageInfo"]["hasNextPage"] is False
    assert {node["subject"]: ProjectRole(node["role"]) for node in nodes} == {
        ADMIN: ProjectRole.ADMIN,
        MEMBER: ProjectRole.MEMBER,
        READER: ProjectRole.READER,
    }


async def test_an_idempotency_key_shows_a_stranger_nothing(gateway: Gateway) -> None:
    await gateway.create(idempotencyKey="once")
    payload = (await gateway.ask(CREATE, STRANGER, input=gateway.creation(idempotencyKey="once")))["createImage"]
    assert [mistake["code"] for mistake in payload["userErrors"]] == ["NOT_FOUND"]
    assert payload["image"] is None
