"""The schema: its descriptions, and what every mutation and connection has in common."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSchema,
    build_schema,
    is_specified_scalar_type,
)

import app
from app import lifecycle
from app.catalog import conversions
from app.errors import UserMistake
from app.graphql import schema
from app.graphql.mutations import Mutation
from app.graphql.payloads import UserErrors
from tests.support.gateway import Gateway, outcome

SDL = Path(app.__file__).parent.parent / "schema.graphql"


@pytest.fixture(scope="module")
def built() -> GraphQLSchema:
    return build_schema(SDL.read_text())


def own_types(built: GraphQLSchema) -> Iterator[tuple[str, Any]]:
    for name, type_ in built.type_map.items():
        if not name.startswith("__") and not is_specified_scalar_type(type_):
            yield name, type_


def described(built: GraphQLSchema) -> Iterator[tuple[str, str | None]]:
    """All descriptions, by their place in the schema."""
    yield from ((f"@{directive.name}", directive.description) for directive in built.directives)
    for name, type_ in own_types(built):
        yield name, type_.description
        if isinstance(type_, GraphQLEnumType):
            yield from ((f"{name}.{value}", definition.description) for value, definition in type_.values.items())
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
            for field_name, field in type_.fields.items():
                yield f"{name}.{field_name}", field.description
                arguments = getattr(field, "args", {})
                yield from ((f"{name}.{field_name}({key})", value.description) for key, value in arguments.items())


def test_the_exported_schema_is_the_committed_one() -> None:
    assert schema.sdl() == SDL.read_text(), "run `images schema > schema.graphql` and check the difference"


def test_everything_is_described_in_whole_sentences(built: GraphQLSchema) -> None:
    found = dict(described(built))
    assert len(found) > 250
    wrong = {place: text for place, text in found.items() if not text or not text.strip().endswith(".")}
    assert wrong == {}


def test_every_mutation_takes_one_input_and_answers_with_its_own_payload(built: GraphQLSchema) -> None:
    assert built.mutation_type is not None
    for name, field in built.mutation_type.fields.items():
        kind = name[0].upper() + name[1:]
        assert {key: str(argument.type) for key, argument in field.args.items()} == {"input": f"{kind}Input!"}
        assert str(field.type) == f"{kind}Payload"
        payload = built.type_map[f"{kind}Payload"]
        assert isinstance(payload, GraphQLObjectType)
        common = {key: str(payload.fields[key].type) for key in ("userErrors", "query", "cursor")}
        assert common == {"userErrors": "[UserError!]!", "query": "Query!", "cursor": "EventCursor"}


def test_every_mutation_returns_mistakes_as_data() -> None:
    declared: Any = Mutation
    fields = declared.__strawberry_definition__.fields
    assert fields
    assert [
        field.name for field in fields if not any(isinstance(found, UserErrors) for found in field.extensions)
    ] == []


def test_every_connection_is_one_of_relay(built: GraphQLSchema) -> None:
    connections = [name for name, _ in own_types(built) if name.endswith("Connection")]
    assert len(connections) >= 5
    for name in connections:
        connection, edge = built.type_map[name], built.type_map[name.removesuffix("Connection") + "Edge"]
        assert isinstance(connection, GraphQLObjectType)
        assert isinstance(edge, GraphQLObjectType)
        assert str(connection.fields["pageInfo"].type) == "PageInfo!"
        assert str(connection.fields["edges"].type) == f"[{edge.name}]"
        assert str(edge.fields["cursor"].type) in ("String!", "EventCursor!")


def test_every_list_that_can_grow_is_paged(built: GraphQLSchema) -> None:
    for name, type_ in own_types(built):
        for field_name, field in getattr(type_, "fields", {}).items():
            if str(field.type).rstrip("!").endswith("Connection"):
                assert {"first", "after", "last", "before"} <= field.args.keys(), f"{name}.{field_name}"


def test_ids_and_enums_are_never_null_and_nodes_have_ids(built: GraphQLSchema) -> None:
    node = built.type_map["Node"]
    assert isinstance(node, GraphQLInterfaceType)
    nodes = {type_.name for type_ in built.get_implementations(node).objects}
    assert nodes == {"Image", "ImageShare", "ImageUpload", "Organization", "Project", "Server", "Viewer", "Volume"}
    for name in nodes:
        type_ = built.type_map[name]
        assert isinstance(type_, GraphQLObjectType)
        assert isinstance(type_.fields["id"].type, GraphQLNonNull)


def test_enum_values_are_upper_case(built: GraphQLSchema) -> None:
    for name, type_ in own_types(built):
        if isinstance(type_, GraphQLEnumType):
            assert all(value == value.upper() for value in type_.values), name


def test_the_enums_are_the_vocabulary(built: GraphQLSchema) -> None:
    pairs = {
        "ImageStatus": lifecycle.ImageStatus,
        "ImageType": lifecycle.ImageType,
        "ImageVisibility": lifecycle.ImageVisibility,
        "ImagePhase": lifecycle.ImagePhase,
        "ImageFailureCode": lifecycle.FailureCode,
        "UploadState": lifecycle.UploadState,
        "DiskFormat": lifecycle.DiskFormat,
        "ProjectRole": lifecycle.ProjectRole,
        "Architecture": lifecycle.Architecture,
        "ServerStatus": lifecycle.ServerStatus,
        "ServerFailureCode": lifecycle.ServerFailureCode,
    }
    for name, vocabulary in pairs.items():
        type_ = built.type_map[name]
        assert isinstance(type_, GraphQLEnumType)
        assert set(type_.values) == set(vocabulary)


def test_every_mistake_has_a_code_of_the_schema(built: GraphQLSchema) -> None:
    codes = built.type_map["UserErrorCode"]
    assert isinstance(codes, GraphQLEnumType)
    assert {mistake.code for mistake in UserMistake.__subclasses__()} <= set(codes.values)


@pytest.mark.anyio
async def test_every_kind_of_event_has_its_own_type(gateway: Gateway) -> None:
    project = await gateway.project()
    image = await gateway.uploaded(projectId=project)
    claim, assignment = await gateway.begun(image["id"])
    await conversions.succeed(gateway.catalogue, claim, assignment, outcome())
    await gateway.mutate("deleteImage", {"imageId": image["id"]})
    document = """query ($id: ID!) { imageEvents(projectId: $id, first: 9) { nodes {
        __typename cursor occurredAt imageId
        ... on ImageStatusChanged { from to } ... on ImageUpdated { fields } ... on ImageDeleted { imageName } } } }"""
    nodes = (await gateway.ask(document, id=project))["imageEvents"]["nodes"]
    assert [node["__typename"] for node in nodes] == [
        "ImageCreated", "ImageUpdated", "ImageStatusChanged", "ImageStatusChanged", "ImageDeleted",
    ]  # fmt: skip
    assert all(node["occurredAt"].endswith("Z") for node in nodes)


@pytest.mark.anyio
async def test_introspection_returns_the_whole_schema_without_a_token(gateway: Gateway) -> None:
    document = "{ __schema { types { name } directives { name } } }"
    found = (await gateway.ask(document, None))["__schema"]
    assert {"Image", "ImageFeedItem", "ResyncRequired"} <= {type_["name"] for type_ in found["types"]}
    assert "oneOf" in {directive["name"] for directive in found["directives"]}
