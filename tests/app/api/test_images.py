"""Lists of images: filters, orders, pages in both directions, and invalid arguments."""

import base64
import json
from datetime import timedelta
from typing import Any

import pytest

from app.graphql.types.connections import encode_cursor
from app.lifecycle import ImageStatus, ImageType, ImageVisibility
from app.models import Image, now
from tests.support.gateway import MORNING, Gateway

pytestmark = pytest.mark.anyio

PAGE = """query ($project: ID!, $filter: ImageFilter, $order: ImageOrder,
               $first: Int, $after: String, $last: Int, $before: String) {
  images(projectId: $project, filter: $filter, orderBy: $order,
         first: $first, after: $after, last: $last, before: $before) {
    totalCount asOf nodes { id name }
    edges { cursor node { id } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""
ORDERS = ["NAME", "CREATED_AT", "SIZE", "STATUS", "TYPE"]
# Keys that many rows have in common, so that their ids decide the order.
EQUAL = [
    {"name": name, "virtual_size": size, "status": status, "type": type_, "created_at": MORNING + timedelta(hours=hour)}
    for name, size, status, type_, hour in [
        ("alpha", None, ImageStatus.QUEUED, ImageType.CUSTOM, 1),
        ("Alpha", 5, ImageStatus.ACTIVE, ImageType.STOCK, 1),
        ("ALPHA", 5, ImageStatus.ACTIVE, ImageType.SNAPSHOT, 1),
        ("beta", None, ImageStatus.ERROR, ImageType.CUSTOM, 2),
        ("Éclair", 9, ImageStatus.SAVING, ImageType.STOCK, 2),
        ("éclair", 7, ImageStatus.ACTIVE, ImageType.CUSTOM, 2),
        ("beta", 5, ImageStatus.QUEUED, ImageType.CUSTOM, 1),
    ]
]


async def page(gateway: Gateway, project: str, **arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await gateway.ask(PAGE, project=project, **arguments))["images"]
    return found


async def names(gateway: Gateway, project: str, **wanted: Any) -> list[str]:
    """The names of the images that match a filter, oldest first."""
    order = {"field": "CREATED_AT", "direction": "ASC"}
    found = await page(gateway, project, filter=wanted, order=order, first=100)
    assert found["totalCount"] == len(found["nodes"])
    return [node["name"] for node in found["nodes"]]


# ---------------------------------------------------------------- filters


async def test_each_filter_lets_its_own_through(gateway: Gateway) -> None:
    project = await gateway.project()
    await gateway.stock(
        project,
        {"name": "ubuntu", "status": ImageStatus.ACTIVE, "type": ImageType.STOCK, "os_family": "ubuntu"},
        {"name": "rocky", "status": ImageStatus.ERROR, "visibility": ImageVisibility.SHARED, "os_family": "rocky"},
        {"name": "plain", "status": ImageStatus.QUEUED, "type": ImageType.SNAPSHOT},
        {"name": "gone", "deleted_at": now()},
    )
    every = ["ubuntu", "rocky", "plain"]
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, every),
        ({"types": ["STOCK", "SNAPSHOT"]}, ["ubuntu", "plain"]),
        ({"types": []}, []),
        ({"types": None, "statuses": None, "nameContains": None, "launchable": None}, every),
        ({"statuses": ["ERROR"]}, ["rocky"]),
        ({"statuses": ["ERROR"] * 990}, ["rocky"]),
        ({"visibilities": ["SHARED"]}, ["rocky"]),
        ({"visibilities": ["PUBLIC"]}, []),
        ({"osFamilies": ["Ubuntu", "windows"]}, ["ubuntu"]),
        ({"launchable": True}, ["ubuntu"]),
        ({"launchable": False}, ["rocky", "plain"]),
        ({"types": ["CUSTOM"], "launchable": False}, ["rocky"]),
        ({"createdAfter": "2026-01-31T06:00:00Z"}, ["rocky", "plain"]),
        ({"createdBefore": "2026-01-31T07:00:00.002+01:00"}, ["ubuntu", "rocky"]),
        ({"createdAfter": "2026-01-31T06:00:00Z", "createdBefore": "2026-01-31T06:00:00.002Z"}, ["rocky"]),
    ]
    for wanted, expected in cases:
        assert await names(gateway, project, **wanted) == expected, wanted


@pytest.mark.parametrize("condition", ["types", "statuses", "visibilities", "osFamilies"])
async def test_an_empty_list_matches_no_image(gateway: Gateway, condition: str) -> None:
    project = await gateway.project()
    await gateway.stock(project, {"name": "ubuntu", "os_family": "ubuntu"}, {"name": "plain"})
    assert await names(gateway, project, **{condition: None}) == ["ubuntu", "plain"]
    assert await names(gateway, project, **{condition: []}) == []


async def test_text_in_a_name_is_found_as_it_is_and_without_regard_to_case(gateway: Gateway) -> None:
    project = await gateway.project()
    every = ["100% done", "a_b", "axb", r"back\slash", "slash/ed", "STRASSE", "Ärger", "ﬁle"]
    await gateway.stock(project, *({"name": name} for name in every))
    for text, expected in [
        ("%", ["100% done"]),
        ("_", ["a_b"]),
        ("\\", [r"back\slash"]),
        ("/", ["slash/ed"]),
        ("straße", ["STRASSE"]),
        ("A\u0308RGER", ["Ärger"]),
        ("FI", ["ﬁle"]),
        ("SLASH", [r"back\slash", "slash/ed"]),
        ("'; --", []),
        ("", every),
    ]:
        assert await names(gateway, project, nameContains=text) == expected, text


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"nameContains": "x" * 60_000}, "nameContains"),
        ({"nameContains": "a\0b"}, "nameContains"),
        ({"nameContains": "\ud800"}, "nameContains"),
        ({"osFamilies": ["x"] * 101}, "osFamilies"),
        ({"osFamilies": ["\udfff"]}, "osFamilies"),
    ],
    ids=["too long", "NUL", "half of a character", "too many", "half of a character in a family"],
)
async def test_a_filter_that_can_not_match_is_refused(gateway: Gateway, wanted: dict[str, Any], field: str) -> None:
    error = await gateway.refused(PAGE, project=gateway.alpha, filter=wanted, first=1)
    assert (error["code"], error["field"]) == ("INVALID", ["filter", field])


@pytest.mark.parametrize("wanted", [{"statuses": ["DONE"]}, {"createdAfter": "yesterday"}, {"name": "x"}])
async def test_a_filter_that_the_schema_does_not_know_is_refused(gateway: Gateway, wanted: dict[str, Any]) -> None:
    error = await gateway.refused(PAGE, project=gateway.alpha, filter=wanted, first=1)
    assert error["code"] == "BAD_USER_INPUT"


# ---------------------------------------------------------------- orders and pages


def expected_order(rows: list[tuple[str, dict[str, Any]]], field: str, *, descending: bool) -> list[str]:
    def key(row: tuple[str, dict[str, Any]]) -> tuple[Any, str]:
        id_, values = row
        size = values["virtual_size"]
        sorts = {
            "NAME": values["name"].casefold(),
            "CREATED_AT": values["created_at"],
            "SIZE": -1 if size is None else size,
            "STATUS": values["status"],
            "TYPE": values["type"],
        }
        return sorts[field], id_

    return [id_ for id_, _ in sorted(rows, key=key, reverse=descending)]


@pytest.mark.parametrize("direction", ["ASC", "DESC"])
@pytest.mark.parametrize("field", ORDERS)
async def test_every_order_pages_both_ways_over_equal_keys(gateway: Gateway, field: str, direction: str) -> None:
    project = await gateway.project()
    ids = await gateway.stock(project, *EQUAL)
    order = {"field": field, "direction": direction}
    expected = expected_order(list(zip(ids, EQUAL, strict=True)), field, descending=direction == "DESC")
    assert await walk(gateway, project, order, "first", "after") == expected
    assert await walk(gateway, project, order, "last", "before") == expected


async def walk(gateway: Gateway, project: str, order: dict[str, str], size: str, beyond: str) -> list[str]:
    """All ids in the order in which pages of two return them, from the start or from the end."""
    ids: list[str] = []
    cursor = None
    while True:
        found = await page(gateway, project, order=order, **{size: 2, beyond: cursor})
        here = [node["id"] for node in found["nodes"]]
        assert [edge["node"]["id"] for edge in found["edges"]] == here
        assert found["totalCount"] == 7
        info = found["pageInfo"]
        assert (info["startCursor"], info["endCursor"]) == (found["edges"][0]["cursor"], found["edges"][-1]["cursor"])
        forward = size == "first"
        ids = ids + here if forward else here + ids
        assert info["hasPreviousPage" if forward else "hasNextPage"] is (cursor is not None)
        cursor = info["endCursor" if forward else "startCursor"]
        if not info["hasNextPage" if forward else "hasPreviousPage"]:
            return ids


async def test_the_newest_come_first_when_nothing_is_said(gateway: Gateway) -> None:
    project = await gateway.project()
    ids = await gateway.stock(project, {}, {}, {})
    assert [node["id"] for node in (await page(gateway, project, first=2))["nodes"]] == ids[:0:-1]


async def test_pages_miss_and_repeat_nothing_that_stayed_while_rows_come_and_go(gateway: Gateway) -> None:
    project = await gateway.project()
    ids = await gateway.stock(project, *({"name": name} for name in "bdfhj"))
    order = {"field": "NAME", "direction": "ASC"}
    first = await page(gateway, project, order=order, first=2)
    # The row of the cursor is deleted; others are added before it, right after it, and at the end.
    await gateway.change(Image, ids[1], deleted_at=now())
    await gateway.stock(project, *({"name": name} for name in ("a", "d2", "z")))
    rest = await page(gateway, project, order=order, first=10, after=first["pageInfo"]["endCursor"])
    assert [node["name"] for node in first["nodes"] + rest["nodes"]] == ["b", "d", "d2", "f", "h", "j", "z"]
    back = await page(gateway, project, order=order, last=10, before=rest["pageInfo"]["startCursor"])
    assert [node["name"] for node in back["nodes"]] == ["a", "b"]


async def test_a_window_between_two_cursors_contains_the_images_between_them(gateway: Gateway) -> None:
    project = await gateway.project()
    await gateway.stock(project, *({"name": name} for name in "abcde"))
    order = {"field": "NAME", "direction": "ASC"}
    cursors = [edge["cursor"] for edge in (await page(gateway, project, order=order, first=5))["edges"]]
    between = await page(gateway, project, order=order, first=9, after=cursors[0], before=cursors[4])
    assert [node["name"] for node in between["nodes"]] == ["b", "c", "d"]
    last = await page(gateway, project, order=order, last=1, after=cursors[0], before=cursors[4])
    assert [node["name"] for node in last["nodes"]] == ["d"]


async def test_an_empty_page_has_no_cursors(gateway: Gateway) -> None:
    found = await page(gateway, await gateway.project(), first=1)
    assert found["nodes"] == []
    assert found["totalCount"] == 0
    assert found["pageInfo"] == {
        "hasNextPage": False, "hasPreviousPage": False, "startCursor": None, "endCursor": None,
    }  # fmt: skip


async def test_pages_go_on_behind_the_longest_name_there_is(gateway: Gateway) -> None:
    project = await gateway.project()
    await gateway.stock(project, {"name": "ﷺ" * 255}, {"name": "ﷺ" * 254 + "ﷻ"})
    order = {"field": "NAME", "direction": "ASC"}
    first = await page(gateway, project, order=order, first=1)
    rest = await page(gateway, project, order=order, first=1, after=first["pageInfo"]["endCursor"])
    assert {first["nodes"][0]["name"], rest["nodes"][0]["name"]} == {"ﷺ" * 255, "ﷺ" * 254 + "ﷻ"}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"first": 0},
        {"first": -1},
        {"first": 101},
        {"last": 101},
        {"first": 2**31},
        {"first": None},
        {"first": 1, "last": 1},
    ],
    ids=str,
)
async def test_a_page_has_one_to_a_hundred_rows(gateway: Gateway, arguments: dict[str, Any]) -> None:
    assert (await gateway.refused(PAGE, project=gateway.alpha, **arguments))["code"] == "BAD_PAGINATION"


# ---------------------------------------------------------------- hostile cursors


def forged(*content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode().rstrip("=")


def keys_of_others(field: str) -> list[Any]:
    """Sort keys that no row of this order has, of every type that a cursor can contain."""
    wrong: dict[str, list[Any]] = {
        "NAME": [None, 7],
        "SIZE": [None, "7"],
        "STATUS": [None, 7, "DONE", "active"],
        "TYPE": [None, 7, "ROW", ""],
        "CREATED_AT": [None, 7, "yesterday", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"],
    }
    return wrong[field]


@pytest.mark.parametrize("field", ORDERS)
async def test_a_cursor_with_a_sort_key_of_another_kind_is_refused(gateway: Gateway, field: str) -> None:
    order = {"field": field, "direction": "ASC"}
    for key in keys_of_others(field):
        cursor = encode_cursor(f"images-{field}-asc", key, f"img_{'0' * 26}")
        for argument in ("after", "before"):
            error = await gateway.refused(PAGE, project=gateway.alpha, order=order, first=1, **{argument: cursor})
            assert (error["code"], error["field"]) == ("INVALID", [argument]), key


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "=" * 8,
        "%00",
        "\ud800",
        "a" * 20_000,
        forged(2, "images-NAME-asc", "a", "img_"),
        forged(1, "images-NAME-desc", "a", "img_"),
        forged(1, "project-name", "a", "img_"),
        forged(1, "images-NAME-asc", "a\0", "img_"),
        forged(1, "images-NAME-asc", "\ud800", "img_"),
        forged(1, "images-NAME-asc", "a", 5),
        forged(1, "images-NAME-asc", {"a": 1}, "img_"),
        forged(1, "images-NAME-asc", 10**30, "img_"),
    ],
    ids=lambda cursor: ascii(cursor[:24]),
)
async def test_what_is_no_cursor_of_this_list_is_refused(gateway: Gateway, cursor: str) -> None:
    order = {"field": "NAME", "direction": "ASC"}
    error = await gateway.refused(PAGE, project=gateway.alpha, order=order, first=1, after=cursor)
    assert (error["code"], error["field"]) == ("INVALID", ["after"])


@pytest.mark.parametrize("key", [None, "1", -1, 0, 2**63 - 1])
async def test_cursors_of_parts_are_numbers(gateway: Gateway, key: Any) -> None:
    image = await gateway.create()
    document = """query ($id: ID!, $after: String) { image(by: {id: $id}) {
        upload { parts(first: 5, after: $after) { nodes { number } } } } }"""
    body = await gateway.answer(document, id=image["id"], after=encode_cursor("part-number", key, "upl_"))
    if isinstance(key, int):
        numbers = [1] if key < 1 else []
        assert body["data"]["image"]["upload"]["parts"]["nodes"] == [{"number": number} for number in numbers]
    else:
        assert [error["extensions"]["code"] for error in body["errors"]] == ["INVALID"]


# ---------------------------------------------------------------- one image, and the position of a page


async def test_an_image_is_found_by_its_name(gateway: Gateway) -> None:
    project = await gateway.project()
    ids = await gateway.stock(
        project,
        {"name": "Web", "status": ImageStatus.ACTIVE},
        {"name": "web", "status": ImageStatus.ACTIVE},
        {"name": "WEB", "status": ImageStatus.ERROR},
        {"name": "new", "status": ImageStatus.QUEUED},
        {"name": "NEW", "status": ImageStatus.ERROR},
    )
    document = """query ($project: ID!, $name: String!) {
        image(by: {name: {projectId: $project, name: $name}}) { id } }"""
    for name, expected in [(" wEb ", ids[1]), ("new", ids[4])]:
        assert (await gateway.ask(document, project=project, name=name))["image"]["id"] == expected
    for absent in ("we", "%", "w\0b", "\ud800", "", "x" * 100_000):
        error = await gateway.refused(document, project=project, name=absent)
        assert (error["code"], error["field"]) == ("NOT_FOUND", ["by", "name", "name"]), absent


@pytest.mark.parametrize("by", [{}, {"id": None}, {"id": "x", "name": {"projectId": "x", "name": "x"}}, {"slug": "x"}])
async def test_an_image_is_looked_for_in_one_way(gateway: Gateway, by: dict[str, Any]) -> None:
    error = await gateway.refused("query ($by: ImageLookup!) { image(by: $by) { id } }", by=by)
    assert error["code"] == "BAD_USER_INPUT"


async def test_an_empty_id_is_not_found(gateway: Gateway) -> None:
    assert (await gateway.refused('{ image(by: {id: ""}) { id } }'))["code"] == "NOT_FOUND"


async def test_a_page_says_at_which_place_of_the_feed_it_was_read(gateway: Gateway) -> None:
    before = (await page(gateway, gateway.alpha, first=1))["asOf"]
    image = await gateway.create()
    after = await page(gateway, gateway.alpha, first=1)
    assert after["nodes"][0]["id"] == image["id"]
    missed = """query ($project: ID!, $after: EventCursor) {
        imageEvents(projectId: $project, after: $after, first: 9) { nodes { __typename imageId } } }"""
    events = (await gateway.ask(missed, project=gateway.alpha, after=before))["imageEvents"]["nodes"]
    assert events == [{"__typename": "ImageCreated", "imageId": image["id"]}]
    assert (await gateway.ask(missed, project=gateway.alpha, after=after["asOf"]))["imageEvents"]["nodes"] == []
    newest = (await gateway.ask("{ eventCursor }"))["eventCursor"]
    assert (await gateway.ask(missed, project=gateway.alpha, after=newest))["imageEvents"]["nodes"] == []
