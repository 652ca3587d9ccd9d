"""Tools that others wrote take the schema, and every document that we publish or send: tests/outside holds scripts."""

import json
import re
from pathlib import Path

import pytest
from graphql import OperationDefinitionNode, parse

from tests.support.documents import documents, in_one
from tests.support.outside import OUTSIDE, PYTHON, ROOT, require, run, run_script

SCHEMA = ROOT / "schema.graphql"
# The schema of the last release: before there is one, that of 868602d, from which the conventions departed.
RELEASED = OUTSIDE / "released.graphql"
GENERATOR = f"""
[tool.ariadne-codegen]
schema_path = "{SCHEMA}"
queries_path = "documents.graphql"
target_package_name = "made"

[tool.ariadne-codegen.scalars]
ByteSize.type = "int"
DateTime.type = "datetime.datetime"
EventCursor.type = "str"
URL.type = "str"
"""

from_npm = pytest.mark.needs_program("node")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with all documents in documents.graphql."""
    (tmp_path / "documents.graphql").write_text(in_one(documents()))
    return tmp_path


def operations(folder: Path) -> list[str]:
    """What the operations in documents.graphql are called, each with its kind at the end."""
    definitions = parse((folder / "documents.graphql").read_text()).definitions
    found = [definition for definition in definitions if isinstance(definition, OperationDefinitionNode)]
    return [
        f"{operation.name.value if operation.name else ''}{operation.operation.value.title()}" for operation in found
    ]


def test_documents_are_found_in_every_place() -> None:
    counts = {place: len(texts) for place, texts in documents().items()}
    assert counts["Docs"] >= 11
    assert counts["GraphiQL"] >= 10
    assert counts["Cli"] >= 30


@from_npm
def test_the_schema_keeps_the_rules_of_graphql_eslint() -> None:
    assert json.loads(run_script("lint.mjs", SCHEMA)) == []


@from_npm
def test_relay_compiles_every_document_and_pages_every_connection(folder: Path) -> None:
    modules = json.loads(run_script("relay.mjs", SCHEMA, "documents.graphql", "relay", folder=folder))
    run_script("node_modules/relay-compiler/cli.js", "relay.config.json", folder=folder / "relay")
    assert len(modules) > len(operations(folder))
    made = {path.name.partition(".")[0] for path in (folder / "relay/artifacts").iterdir()}
    assert {*operations(folder)} <= made
    assert [module for module in modules if not any(name.startswith(module) for name in made)] == []


@from_npm
def test_the_client_preset_of_graphql_codegen_types_every_document(folder: Path) -> None:
    files = json.loads(run_script("generate.mjs", SCHEMA, "documents.graphql", folder=folder))
    typed = re.findall(r"^export type (\w+) =", files["generated/graphql.ts"], re.MULTILINE)
    assert {*operations(folder)} <= {*typed}


def test_ariadne_codegen_makes_a_client_of_every_document(folder: Path) -> None:
    require(PYTHON)
    (folder / "generator.toml").write_text(GENERATOR)
    run(PYTHON.with_name("ariadne-codegen"), "--config", "generator.toml", folder=folder)
    run(PYTHON, "-c", "from made import Client", folder=folder)
    client = (folder / "made/client.py").read_text()
    assert len(re.findall(r"operation_name=", client)) == len(operations(folder))


@from_npm
def test_the_changelog_lists_every_breaking_change_since_the_last_release() -> None:
    breaking = json.loads(run_script("changes.mjs", RELEASED, SCHEMA))
    unreleased = re.split(r"^## ", (ROOT / "docs/changelog.md").read_text(), flags=re.MULTILINE)[1]
    sections = re.findall(r"^\*\*Breaking changes of the schema\*\*\n\n((?:[- ] .*\n)*)", unreleased, re.MULTILINE)
    listed = re.findall(r"^- `([\w.]+)`", "".join(sections), re.MULTILINE)
    assert sorted(listed) == sorted(breaking), breaking
