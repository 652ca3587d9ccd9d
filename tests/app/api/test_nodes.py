"""Objects by their ids: existing and missing ones, and texts that are not ids."""

from typing import Any

import pytest

from tests.support.gateway import ADMIN, STRANGER, Gateway

pytestmark = pytest.mark.anyio

NODE = "query ($id: ID!) { node(id: $id) { __typename id } }"
NODES = "query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }"

HOSTILE = {
    "empty": "",
    "a word": "image",
    "a prefix": "img_",
    "in capitals": f"IMG_{'0' * 26}",
    "of no type": f"xyz_{'0' * 26}",
    "a NUL in it": f"img_{'0' * 25}\0",
    "a NUL behind it": f"img_{'0' * 26}\0",
    "a line break behind it": f"img_{'0' * 26}\n",
    "half of a character": "img_\ud800",
    "half of a character at the end": f"img_{'0' * 25}\ud800",
    "Arabic digits": "img_" + "\N{ARABIC-INDIC DIGIT ZERO}" * 26,
    "a quote": "img_' OR 1=1 --",
    "a path": "img_/../../../../etc/passwd....",
    "10 KB long": "img_" + "0" * 10_240,
    "somebody else": "usr_max",
    "a number": 17,
}


async def test_every_type_of_node_is_found_by_its_id(gateway: Gateway) -> None:
    image = await gateway.create()
    organization = (
        await gateway.ask("query ($id: ID!) { project(id: $id) { organization { id } } }", id=gateway.alpha)
    )["project"]["organization"]["id"]
    ids = [image["id"], image["upload"]["id"], gateway.alpha, organization, f"usr_{ADMIN}"]
    kinds = ["Image", "ImageUpload", "Project", "Organization", "Viewer"]
    expected = [{"__typename": kind, "id": id_} for kind, id_ in zip(kinds, ids, strict=True)]
    assert (await gateway.ask(NODES, ids=ids))["nodes"] == expected
    assert [(await gateway.ask(NODE, id=id_))["node"] for id_ in ids] == expected


@pytest.mark.parametrize("id_", HOSTILE.values(), ids=HOSTILE.keys())
async def test_what_is_no_id_is_not_found(gateway: Gateway, id_: object) -> None:
    error = await gateway.refused(NODE, id=id_)
    assert (error["code"], error["message"], error["field"]) == (
        "NOT_FOUND",
        "There is no object with this id.",
        ["id"],
    )


async def test_ids_of_nothing_cost_only_their_own_places(gateway: Gateway) -> None:
    image = await gateway.create()
    body = await gateway.answer(NODES, ids=[image["id"], *HOSTILE.values(), gateway.alpha])
    nodes = body["data"]["nodes"]
    assert (nodes[0]["id"], nodes[-1]["id"]) == (image["id"], gateway.alpha)
    assert nodes[1:-1] == [None] * len(HOSTILE)
    assert [error["path"] for error in body["errors"]] == [["nodes", at + 1] for at in range(len(HOSTILE))]
    assert {error["extensions"]["code"] for error in body["errors"]} == {"NOT_FOUND"}


async def test_an_organization_is_seen_by_those_who_have_a_project_in_it(gateway: Gateway) -> None:
    found = await gateway.ask("query ($id: ID!) { project(id: $id) { organization { id } } }", id=gateway.alpha)
    id_ = found["project"]["organization"]["id"]
    assert (await gateway.ask(NODE, STRANGER, id=id_))["node"]["id"] == id_
    assert (await gateway.refused(NODE, "nobody", id=id_))["code"] == "NOT_FOUND"


async def test_a_deleted_image_is_not_found_and_neither_is_its_upload(gateway: Gateway) -> None:
    image = await gateway.create()
    await gateway.mutate("deleteImage", {"imageId": image["id"]})
    for id_ in (image["id"], image["upload"]["id"]):
        assert (await gateway.refused(NODE, id=id_))["code"] == "NOT_FOUND"


async def test_a_hundred_ids_can_be_asked_for_and_one_more_can_not(gateway: Gateway) -> None:
    assert (await gateway.ask(NODES, ids=[gateway.alpha] * 100))["nodes"][99]["id"] == gateway.alpha
    error = await gateway.refused(NODES, ids=[gateway.alpha] * 101)
    assert error["code"] == "TOO_MANY_IDS"


@pytest.mark.parametrize("hostile", ["half of a character", "a NUL behind it", "10 KB long"])
@pytest.mark.parametrize(
    "document",
    [
        "query ($id: ID!) { project(id: $id) { id } }",
        "query ($id: ID!) { image(by: {id: $id}) { id } }",
        'query ($id: ID!) { image(by: {name: {projectId: $id, name: "x"}}) { id } }',
        "query ($id: ID!) { images(projectId: $id, first: 1) { totalCount } }",
        "query ($id: ID!) { imageEvents(projectId: $id, first: 1) { nodes { imageId } } }",
    ],
)
async def test_no_query_stumbles_over_a_hostile_id(gateway: Gateway, document: str, hostile: str) -> None:
    assert (await gateway.refused(document, id=HOSTILE[hostile]))["code"] == "NOT_FOUND"


@pytest.mark.parametrize("id_", HOSTILE.values(), ids=HOSTILE.keys())
async def test_no_mutation_stumbles_over_a_hostile_id(gateway: Gateway, id_: object) -> None:
    inputs: dict[str, dict[str, Any]] = {
        "completeUpload": {"uploadId": id_},
        "abortUpload": {"uploadId": id_},
        "retryImage": {"imageId": id_},
        "updateImage": {"imageId": id_, "name": "x"},
        "deleteImage": {"imageId": id_},
        "createImage": gateway.creation(projectId=id_),
    }
    for name, given in inputs.items():
        assert (await gateway.mistake(name, given))["code"] == "NOT_FOUND", name


async def test_ids_of_another_type_are_not_found(gateway: Gateway) -> None:
    image = await gateway.create()
    for name, given in {
        "completeUpload": {"uploadId": image["id"]},
        "deleteImage": {"imageId": image["upload"]["id"]},
        "createImage": gateway.creation(projectId=image["id"]),
    }.items():
        assert (await gateway.mistake(name, given))["code"] == "NOT_FOUND", name


async def test_events_of_what_is_no_image_are_none(gateway: Gateway) -> None:
    await gateway.create()
    document = """query ($project: ID!, $id: ID!) {
        imageEvents(projectId: $project, imageId: $id, first: 1) { nodes { imageId } } }"""
    for id_ in HOSTILE.values():
        data = await gateway.ask(document, project=gateway.alpha, id=id_)
        assert data["imageEvents"]["nodes"] == []
