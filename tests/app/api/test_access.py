"""Who may do what: every cell of the tables in `access_table`, its answer and its effects."""

import json
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from graphql import (
    FieldNode,
    GraphQLObjectType,
    GraphQLSchema,
    OperationDefinitionNode,
    TypeInfo,
    TypeInfoVisitor,
    Visitor,
    build_schema,
    parse,
    visit,
)

from app.graphql import schema
from app.models import now
from tests.support.access_cells import CALLERS, SEES, Cell, Row, cells_of, rows_of
from tests.support.access_lines import ABSENT, CHANGES, PROJECTS, READS, WATCHES, Change, document_of, filled, names_in
from tests.support.access_table import CHANGING, LISTING, READING, WATCHING
from tests.support.access_world import ACME, ADMINS, GLOBEX, PLACES, World, anonymized, made_by, mutation_of
from tests.support.gateway import Gateway
from tests.support.watchers import Wanted, served, watching

pytestmark = pytest.mark.anyio

DONE = ("+", "o")
# What can be watched alone.
_ALONE = ("image", "server")
# The mutations whose events are about a new image.
_CREATIONS = ("createImage", "createSnapshot")
# What a mutation changes, by the names with a dollar.
_THINGS = ("image", "upload", "share", "offer", "declined", "server", "stopped", "volume", "boot", "snapshot")


@pytest.fixture(scope="module")
async def as_built(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(gateway, tmp_path_factory.mktemp("saved") / "objects")
    await world.build()
    return world


@pytest.fixture
async def world(as_built: World) -> World:
    """The world as it was built, whatever the previous test has done."""
    await as_built.rebuild()
    return as_built


@pytest.fixture(scope="module")
async def address(gateway: Gateway) -> AsyncIterator[str]:
    async with served(gateway.app, gateway.endpoint) as address:
        yield address


# ---------------------------------------------------------------- reading


def reached(value: Any, path: str) -> Any:
    """The value at a path; None if something on the path is null."""
    for step in path.split():
        if value is None:
            return None
        value = value[int(step)] if step.isdecimal() else value[step]
    return value


def without(names: Mapping[str, str], hidden: set[str]) -> dict[str, str]:
    """The same names, with ids that don't exist for the hidden ones."""
    return {name: ABSENT[name] if name in hidden else value for name, value in names.items()}


async def seen(world: World, row: Row, caller: str) -> str:
    """What a caller sees by a query, in the table's terms."""
    read = READS[row.line]
    names = world.names(row.kind, read.state, caller)
    given = {name: names[name] for name in names_in(read.text)}
    body = await world.answer(read.document, caller, **given)
    blamed = {"".join(error["extensions"].get("field", [])[-1:]) for error in body.get("errors", ())}
    hidden = {name for name in given if name in ABSENT and (name in PROJECTS) == (blamed == {"projectId"})}
    hidden = hidden or set(given) & ABSENT.keys()
    seen = shown(row, body)
    if seen in ("-", "0") and body != await world.answer(read.document, caller, **without(given, hidden)):
        return f"{seen}, different from what does not exist"
    return seen


def shown(row: Row, body: dict[str, Any]) -> str:
    if "errors" in body:
        (error,) = body["errors"]
        code: str = error["extensions"]["code"]
        return {"UNAUTHENTICATED": "?", "NOT_FOUND": "-"}.get(code, code)
    read = READS[row.line]
    return read.show(reached(body["data"]["it"], read.path))


@pytest.mark.parametrize("row", rows_of(READING), ids=str)
async def test_who_reads_sees_what_the_table_says_and_leaves_no_trace(world: World, row: Row) -> None:
    found = {caller: await seen(world, row, caller) for caller in CALLERS}
    assert found == row.outcomes
    await world.assert_untouched()


@pytest.mark.parametrize("kind", SEES)
async def test_what_is_read_by_an_id_or_a_name_is_what_has_it(world: World, kind: str) -> None:
    names = world.names(kind, "active", "operator")
    for line in ("image by id", "image by name, in its project", "node of an image"):
        given = {name: names[name] for name in names_in(READS[line].text)}
        body = await world.answer(READS[line].document, "operator", **given)
        assert body == {"data": {"it": {"id": names["image"]}}}


# ---------------------------------------------------------------- what is listed


def lists(world: World) -> dict[str, list[str]]:
    """Documents that select everything that can be listed."""
    image = "id name source { ... on CopySource { image { id name } } }"
    share = "id imageName image { id name } project { id name }"
    event = f"imageId image {{ {image} }} ... on ImageDeleted {{ imageName }}"
    event += f" ... on ImageShareChanged {{ share {{ {share} }} }}"
    shares = f"shares(first: 9) {{ nodes {{ {share} }} }}"
    every = [world.ids[name] for name in (*ACME, *GLOBEX)]
    ids = [*world.ids.values(), *(image["id"] for image in world.images.values())]
    node = f"... on Image {{ {image} }} ... on ImageShare {{ {share} }}"
    return {
        "images": [f'{{ images(projectId: "{id_}", first: 50) {{ nodes {{ {image} {shares} }} }} }}' for id_ in every],
        "nodes": [f"{{ nodes(ids: {json.dumps(list(dict.fromkeys(ids)))}) {{ __typename {node} }} }}"],
        "imageEvents": [f'{{ imageEvents(projectId: "{id_}", first: 99) {{ nodes {{ {event} }} }} }}' for id_ in every],
        **{
            shares: [f'{{ project(id: "{id_}") {{ {shares}(first: 50) {{ nodes {{ {share} }} }} }} }}' for id_ in every]
            for shares in ("shareOffers", "acceptedShares")
        },
        "usage": [f'{{ project(id: "{id_}") {{ {bill_until(now())} }} }}' for id_ in every],
    }


def bill_until(at: datetime) -> str:
    """The bill of the last and next days, by image."""
    since, until = ((at + timedelta(days=days)).isoformat() for days in (-2, 2))
    return f'usage(from: "{since}", to: "{until}") {{ byImage(first: 50) {{ nodes {{ imageName image {{ id }} }} }} }}'


async def listed(world: World, line: str, caller: str) -> str:
    """Everything that a caller can list, as the text of the answers; a question mark without a token."""
    answers = [await world.answer(document, caller) for document in lists(world)[line]]
    codes = {error["extensions"]["code"] for body in answers for error in body.get("errors", ())}
    assert codes <= {"NOT_FOUND", "UNAUTHENTICATED"}
    return "?" if codes == {"UNAUTHENTICATED"} else json.dumps(answers)


def told_in(text: str, world: World, kind: str) -> str:
    """Whether a text contains anything of the images of a kind, in the table's terms."""
    images = [image for (kind_, _), image in world.images.items() if kind_ == kind]
    return "+" if any(image["id"] in text or image["name"] in text for image in images) else text[:1].replace("[", "0")


@pytest.mark.parametrize("line", list(dict.fromkeys(row.line for row in rows_of(LISTING))))
async def test_of_what_cannot_be_seen_nothing_is_in_any_list(world: World, line: str) -> None:
    texts = {caller: await listed(world, line, caller) for caller in CALLERS}
    rows = [row for row in rows_of(LISTING) if row.line == line]
    found = {row.kind: {caller: told_in(text, world, row.kind) for caller, text in texts.items()} for row in rows}
    assert found == {row.kind: row.outcomes for row in rows}


@pytest.mark.parametrize("caller", ["launch reader", "launch member", "launch admin"])
async def test_the_new_name_of_an_image_is_hidden_from_a_project_that_no_longer_sees_it(
    world: World, caller: str
) -> None:
    assert "renamed-since" not in "".join([await listed(world, line, caller) for line in lists(world)])
    assert "renamed-since" in await listed(world, "images", "member")


@pytest.mark.parametrize("caller", CALLERS)
async def test_viewers_list_the_projects_that_they_belong_to_and_no_others(world: World, caller: str) -> None:
    document = "{ viewer { operator projects(first: 50) { totalCount nodes { name organization { id } } } } }"
    body = await world.answer(document, caller)
    if caller == "anonymous":
        assert [error["extensions"]["code"] for error in body["errors"]] == ["UNAUTHENTICATED"]
        return
    viewer = body["data"]["viewer"]
    expected = projects_of(caller)
    assert [project["name"] for project in viewer["projects"]["nodes"]] == sorted(expected)
    assert viewer["projects"]["totalCount"] == len(expected)
    assert viewer["operator"] == (caller == "operator")


def projects_of(caller: str) -> set[str]:
    subject, place, role = CALLERS[caller].subject, CALLERS[caller].place, CALLERS[caller].role
    if caller in ("operator", "owner of the organization"):
        return {*ACME, *GLOBEX, "alpha", "beta"} if caller == "operator" else set(ACME)
    others = {name for name, subjects in ADMINS.items() if subject in subjects}
    return others | {place} if role else others


# ---------------------------------------------------------------- watching


async def watched(world: World, address: str, row: Row, caller: str) -> str:
    """The first result of a subscription, in the table's terms."""
    watch = WATCHES[row.line]
    names = world.names(row.kind, "active", caller)
    given = {name: names[name] for name in names_in(watch.text)}
    answer = await first_answer(world, address, row, caller, given)
    if "errors" not in answer:
        return "+" if names[_watched_thing(row)] in answer["ids"] else "0"
    (error,) = answer["errors"]
    seen = {"UNAUTHENTICATED": "?", "NOT_FOUND": "-"}[error["extensions"]["code"]]
    hidden = {name for name in given if name in (PROJECTS if row.line not in _ALONE else {row.line})}
    if seen == "-" and answer != await first_answer(world, address, row, caller, without(given, hidden)):
        return "-, different from what does not exist"
    return seen


def _watched_thing(row: Row) -> str:
    """What an answer has to name."""
    return row.line if row.line in _ALONE else "image"


async def first_answer(world: World, address: str, row: Row, caller: str, given: Mapping[str, str]) -> dict[str, Any]:
    """The errors of a subscription, or the ids of the images in its events, up to the last one that was built."""
    subject = CALLERS[caller].subject
    token = world.gateway.token(subject) if subject else None
    document = document_of("subscription", WATCHES[row.line].text)
    last = {image["id"] for (kind, _), image in world.images.items() if kind == "last"}
    ids: list[str] = []
    async with watching("websocket", Wanted(address, document, dict(given), token)) as watcher:
        while not last & set(ids):
            answer = await watcher.next()
            if "errors" in answer:
                return anonymized(answer)
            # Empty for events of servers and volumes.
            ids.append(answer["data"]["it"].get("imageId") or answer["data"]["it"].get("id", ""))
            if row.line in _ALONE:
                break
    return {"ids": ids}


@pytest.mark.parametrize("row", rows_of(WATCHING), ids=str)
async def test_who_watches_is_sent_first_what_the_table_says(world: World, address: str, row: Row) -> None:
    found = {caller: await watched(world, address, row, caller) for caller in CALLERS}
    assert found == row.outcomes
    await world.assert_untouched()


# ---------------------------------------------------------------- changing


def mistake_of(change: Change, outcome: str) -> tuple[str, list[str]]:
    """The code and the field of an outcome in the table."""
    thing, project = change.thing.split("."), ["projectId"]
    return {
        "-": ("NOT_FOUND", thing),
        "n": ("NOT_FOUND", project),
        "F": ("FORBIDDEN", thing),
        "f": ("FORBIDDEN", project),
        "P": ("FORBIDDEN", ["protected"]),
        "A": ("NOT_TARGET_ADMIN", project if change.mutation == "shareImage" else thing),
        "O": ("DIFFERENT_ORGANIZATION", project),
        "I": ("INVALID", thing),
        "C": ("CONFLICT", [change.conflict] if change.conflict else thing),
    }[outcome]


def hidden_by(change: Change, outcome: str) -> dict[str, str]:
    """The names to replace, so that what the outcome hides does not exist."""
    absent = {**{name: ABSENT[name] for name in PROJECTS}, **change.absent}
    if outcome in ("n", "O"):
        return absent
    things = {name: ABSENT[name] for name in _THINGS}
    return things if change.thing != "projectId" else {"project": ABSENT["project"]}


async def refuses(world: World, cell: Cell, change: Change, names: Mapping[str, str]) -> None:
    """Asserts that a change is refused as in the table."""
    document, given = mutation_of(change.mutation), filled(change.input, names)
    body = await world.answer(document, cell.caller, input=given)
    if cell.outcome == "?":
        assert [error["extensions"]["code"] for error in body["errors"]] == ["UNAUTHENTICATED"]
        assert body.get("data") is None
        return
    payload = body["data"]["it"]
    (mistake,) = payload["userErrors"]
    assert (mistake["code"], mistake["field"]) == mistake_of(change, cell.outcome)
    # The error about an upload that has ended comes with its image, which states the reason.
    shown = names["image"] if cell.outcome == "C" and change.thing == "uploadId" else ""
    assert (payload["cursor"], made_by(change.mutation, payload)) == (None, shown)
    assert mistake["hint"] or cell.outcome == "C"
    if cell.outcome in ("-", "n", "O"):
        absent = filled(change.input, {**names, **hidden_by(change, cell.outcome)})
        assert absent != given
        assert body == await world.answer(document, cell.caller, input=absent)


async def does(world: World, cell: Cell, change: Change, names: Mapping[str, str]) -> None:
    """Asserts that a change is made, and that every project that can see the image receives its events."""
    given = filled(change.input, names)
    payload = (await world.answer(mutation_of(change.mutation), cell.caller, input=given))["data"]["it"]
    assert payload["userErrors"] == []
    assert payload["cursor"]
    made = made_by(change.mutation, payload)
    assert made
    state = "OFFERED" if cell.outcome == "o" else "ACCEPTED"
    names = {**names, "made": made, "state": state}
    variables = {name: names[name] for name in names_in(change.check)}
    found = await world.answer(document_of("query", change.check), "operator", **variables)
    assert found["data"] == {"it": filled(change.becomes, names)}
    assert await world.feeds() == expected_feeds(cell, made if change.mutation in _CREATIONS else names["image"])


def expected_feeds(cell: Cell, image_id: str) -> dict[str, list[tuple[str, str, str | None]]]:
    """The events that the table lists, by project."""
    places = {**PLACES[cell.row.kind], "place": CALLERS[cell.caller].place}
    listed = {places.get(name, name): events for name, events in cell.row.events.get(cell.outcome, {}).items()}
    actor = CALLERS[cell.caller].subject
    return {name: [(event, image_id, actor) for event in listed.get(name, ())] for name in (*ACME, *GLOBEX)}


@pytest.mark.parametrize("cell", cells_of(CHANGING), ids=str)
async def test_a_change_comes_to_what_the_table_says(world: World, cell: Cell) -> None:
    change = CHANGES[cell.row.line]
    names = world.names(cell.row.kind, change.state, cell.caller)
    if cell.outcome in DONE:
        await does(world, cell, change, names)
    elif cell.outcome == "=":
        payload = await world.answer(mutation_of(change.mutation), cell.caller, input=filled(change.input, names))
        assert payload["data"]["it"]["userErrors"] == []
        assert made_by(change.mutation, payload["data"]["it"])
        await world.assert_untouched()
    else:
        await refuses(world, cell, change, names)
        await world.assert_untouched()


# ---------------------------------------------------------------- completeness

# The lines that read each type that has ids, by its id.
NODES = {
    "Image": "node of an image",
    "ImageShare": "node of a share",
    "ImageUpload": "node of an upload",
    "Organization": "node of an organization",
    "Project": "node of a project",
    "Server": "node of a server",
    "Viewer": "node of the viewer",
    "Volume": "node of a volume",
}


# Fields that no line reads: stored columns, also of its blob, which everyone sees who sees the object.
STORED = {
    "Image": {
        "architecture", "bootChecked", "bootReadiness", "createdAt", "failure", "labels", "minBootDiskGib", "name",
        "os", "protected", "revision", "sha256", "status", "storedSize", "type", "updatedAt", "virtualSize",
        "visibility", "warnings",
    },
    "Project": {"revision"},
}  # fmt: skip


@pytest.fixture(scope="module")
def built() -> GraphQLSchema:
    return build_schema(schema.sdl())


def fields_of(root: GraphQLObjectType | None) -> set[str]:
    assert root is not None
    return set(root.fields)


def asked_by(document: str) -> str:
    """The root field of an operation."""
    (operation,) = parse(document).definitions
    assert isinstance(operation, OperationDefinitionNode)
    (selection,) = operation.selection_set.selections
    return str(selection.name.value)  # type: ignore[attr-defined]


def fields_asked(built: GraphQLSchema, document: str) -> set[tuple[str, str]]:
    """The fields in a document, each with its type."""
    asked: set[tuple[str, str]] = set()
    known = TypeInfo(built)

    class Fields(Visitor):
        def enter_field(self, node: FieldNode, *_others: object) -> None:
            parent = known.get_parent_type()
            assert parent is not None
            asked.add((parent.name, node.name.value))

    visit(parse(document), TypeInfoVisitor(known, Fields()))
    return asked


def lines(tables: Mapping[str, str]) -> set[str]:
    return {row.line for row in rows_of(tables)}


def test_every_query_mutation_and_subscription_is_in_the_tables(built: GraphQLSchema) -> None:
    assert {asked_by(READS[line].document) for line in lines(READING)} == fields_of(built.query_type)
    assert {CHANGES[line].mutation for line in lines(CHANGING)} == fields_of(built.mutation_type)
    watched = {asked_by(document_of("subscription", WATCHES[line].text)) for line in lines(WATCHING)}
    assert watched == fields_of(built.subscription_type)


def test_every_type_of_node_is_in_the_tables(built: GraphQLSchema) -> None:
    node = built.type_map["Node"]
    found = {type_.name for type_ in built.get_implementations(node).objects}  # type: ignore[arg-type]
    assert found == NODES.keys()
    assert set(NODES.values()) <= lines(READING)


@pytest.mark.parametrize("type_", STORED)
def test_every_field_of_images_and_projects_is_in_the_tables(built: GraphQLSchema, type_: str) -> None:
    asked = set[tuple[str, str]]().union(*(fields_asked(built, READS[line].document) for line in lines(READING)))
    found = built.type_map[type_]
    assert isinstance(found, GraphQLObjectType)
    assert {name for name in found.fields if (type_, name) not in asked} == STORED[type_]


def test_every_operation_that_is_written_down_has_its_lines() -> None:
    assert (lines(READING), lines(WATCHING), lines(CHANGING)) == (set(READS), set(WATCHES), set(CHANGES))
    for tables in (READING, WATCHING, LISTING, CHANGING):
        rows = [(row.kind, row.line) for row in rows_of(tables)]
        assert len(rows) == len(set(rows))
        assert {kind for kind, _ in rows} == SEES.keys()
