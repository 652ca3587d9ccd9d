"""Every GraphQL document that is published or sent: in the docs, in GraphiQL's tabs, and by the `images` command."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from graphql import FragmentDefinitionNode, NameNode, OperationDefinitionNode, parse, print_ast

ROOT = Path(__file__).parents[2]
_FENCED = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"""'((?:query|mutation|subscription)\b[^']*)'|"((?:query|mutation|subscription)\b[^"]*)\"""")


def documents() -> Mapping[str, list[str]]:
    """The documents of each place."""
    return {
        "Docs": [text for page in sorted(ROOT.glob("docs/**/*.md")) for text in _in_page(page)],
        "GraphiQL": [path.read_text() for path in sorted(ROOT.glob("app/web/graphiql/examples/*.graphql"))],
        "Cli": [text for path in sorted(ROOT.glob("app/client/documents/*.graphql")) for text in _in_file(path)],
    }


def in_one(found: Mapping[str, list[str]]) -> str:
    """All of them as one document, in which each operation has a name, which begins with its place."""
    definitions: dict[str, str] = {}
    for place, texts in found.items():
        for number, text in enumerate(texts, 1):
            for definition in parse(text, no_location=True).definitions:
                assert isinstance(definition, OperationDefinitionNode | FragmentDefinitionNode)
                name = definition.name.value if definition.name else str(number)
                if isinstance(definition, OperationDefinitionNode):
                    name = f"{place}{name}"
                printed = print_ast(replace(definition, name=NameNode(value=name)))
                assert definitions.setdefault(name, printed) == printed, f"two differ that are both called {name}"
    return "\n\n".join(definitions.values()) + "\n"


def _in_page(page: Path) -> Iterable[str]:
    for block in _FENCED.findall(page.read_text()):
        for single, double in _QUOTED.findall(block):
            yield single or double


def _in_file(path: Path) -> Iterable[str]:
    for definition in parse(path.read_text(), no_location=True).definitions:
        yield print_ast(definition)
