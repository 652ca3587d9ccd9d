"""The generated client: what its documents select is printed as the gateway answered it, newer answers too."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLEnumType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLScalarType,
    GraphQLUnionType,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    build_schema,
    concat_ast,
    get_nullable_type,
    is_non_null_type,
    parse,
)
from pydantic import BaseModel

from app.client.generated.enums import ImageStatus, ShareGrant
from app.client.generated.fragments import ImageFields
from app.client.terminal.output import as_received
from tests.conftest import do_without
from tests.support import answers

ROOT = Path(__file__).parents[3]
DOCUMENTS = concat_ast([parse(path.read_text()) for path in sorted((ROOT / "app/client/documents").glob("*.graphql"))])
SCHEMA = build_schema((ROOT / "schema.graphql").read_text())
OPERATIONS = {
    node.name.value: node
    for node in DOCUMENTS.definitions
    if isinstance(node, OperationDefinitionNode) and node.name is not None
}
FRAGMENTS = {node.name.value: node for node in DOCUMENTS.definitions if isinstance(node, FragmentDefinitionNode)}
GENERATOR = ROOT / ".venv/codegen/bin/ariadne-codegen"


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def model_of(operation: str) -> type[BaseModel]:
    model: type[BaseModel] = getattr(import_module(f"app.client.generated.{snake(operation)}"), operation)
    return model


@dataclass
class Answering:
    """Answers with made-up data: null wherever it may be unless `full`, and the `turn`-th type of abstract ones."""

    full: bool
    turn: int = 0
    counted: int = 0

    def selected(self, type_: GraphQLObjectType, selections: SelectionSetNode) -> dict[str, Any]:
        """The object of this type that is answered to a selection."""
        found: dict[str, Any] = {}
        for node in selections.selections:
            if isinstance(node, FieldNode):
                found[node.name.value] = self._field(type_, node)
            else:
                fragment = FRAGMENTS[node.name.value] if isinstance(node, FragmentSpreadNode) else node
                assert isinstance(fragment, FragmentDefinitionNode | InlineFragmentNode)
                if type_.name in names_of(fragment):
                    found |= self.selected(type_, fragment.selection_set)
        return found

    def _field(self, type_: GraphQLObjectType, node: FieldNode) -> Any:
        if node.name.value == "__typename":
            return type_.name
        return self._value(type_.fields[node.name.value].type, node)

    def _value(self, type_: GraphQLOutputType, node: FieldNode) -> Any:
        if not is_non_null_type(type_) and not self.full:
            return None
        wanted = get_nullable_type(type_)
        if isinstance(wanted, GraphQLList):
            return [self._value(wanted.of_type, node) for _ in range(2)]
        self.counted += 1
        if isinstance(wanted, GraphQLEnumType):
            return list(wanted.values)[self.counted % len(wanted.values)]
        if isinstance(wanted, GraphQLScalarType):
            return SCALARS[wanted.name](self.counted)
        assert node.selection_set is not None
        if isinstance(wanted, GraphQLUnionType | GraphQLInterfaceType):
            fitting = SCHEMA.get_possible_types(wanted)
            wanted = fitting[self.turn % len(fitting)]
        assert isinstance(wanted, GraphQLObjectType)
        return self.selected(wanted, node.selection_set)


def names_of(fragment: FragmentDefinitionNode | InlineFragmentNode) -> set[str]:
    """The types that a fragment is about."""
    assert fragment.type_condition is not None
    type_ = SCHEMA.type_map[fragment.type_condition.name.value]
    if isinstance(type_, GraphQLUnionType | GraphQLInterfaceType):
        return {possible.name for possible in SCHEMA.get_possible_types(type_)}
    return {type_.name}


SCALARS: Mapping[str, Callable[[int], object]] = {
    "Boolean": lambda number: number % 2 == 0,
    "ByteSize": lambda number: 2**40 + number,
    "DateTime": lambda number: f"2026-01-01T00:00:00.{number:06}Z",
    "EventCursor": lambda number: f"cursor {number}",
    "Float": lambda number: number / 4,
    "ID": lambda number: f"id_{number}",
    "Int": lambda number: number,
    "String": lambda number: f"text {number} \ud800\u202e",
    "URL": lambda number: f"http://host/{number}",
}


def answered(operation: OperationDefinitionNode, answering: Answering) -> dict[str, Any]:
    """The data that a gateway would answer a document with."""
    root = SCHEMA.get_root_type(operation.operation)
    assert root is not None
    return answering.selected(root, operation.selection_set)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_answer_is_printed_as_it_came(name: str) -> None:
    # As many turns as the longest union has types.
    for answering in (Answering(full=False), *(Answering(full=True, turn=turn) for turn in range(14))):
        data = answered(OPERATIONS[name], answering)

        printed = as_received(model_of(name).model_validate(data))

        assert printed == data
        assert json.dumps(printed) == json.dumps(data), "the same order"


def test_a_value_that_is_newer_than_the_client_stands_for_itself() -> None:
    image = ImageFields.model_validate(answers.image(status="FROZEN"))

    assert (image.status, f"{image.status}", image.status.lower()) == ("FROZEN", "FROZEN", "frozen")
    assert as_received(image)["status"] == "FROZEN"
    assert "FROZEN" not in list(ImageStatus)
    assert ShareGrant("SOME") == "SOME"


def test_an_image_from_where_the_client_knows_nothing_of_is_read_all_the_same() -> None:
    # A document selects nothing of a type that it does not name.
    assert as_received(ImageFields.model_validate(answers.image(source={})))["source"] == {}


def test_the_generated_client_is_what_the_generator_makes() -> None:
    if not GENERATOR.exists():
        do_without("needs ariadne-codegen: make setup")

    command = [sys.executable, ".ci/client", "--check"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert checked.returncode == 0, checked.stdout + checked.stderr
