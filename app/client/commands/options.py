"""Options that several commands have, and how they take words of the API."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from app.client.api.connection import Connection, find_connection
from app.client.newer import OpenEnum

Word = TypeVar("Word", bound=OpenEnum)

Project = Annotated[
    str | None,
    typer.Option(
        "--project", "-p", envvar="IMAGES_PROJECT", help="Project, by name or id; not needed if you have one."
    ),
]
ConnectionFile = Annotated[
    Path | None,
    typer.Option(
        "--connection",
        help="The connection.json of a gateway, instead of IMAGES_URL and IMAGES_TOKEN.  [env var: IMAGES_CONNECTION]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, errors too; no bars and no notes.")]
PatienceSeconds = Annotated[
    float, typer.Option("--patience", min=0, metavar="SECONDS", help="How long to put up with a gateway that is away.")
]


def words(known: type[OpenEnum]) -> str:
    """The words that an option takes, as its help shows them."""
    return "|".join(word.lower() for word in known)


def word_of(known: type[Word]) -> Callable[[str], Word]:
    """Reads a word of the API, in whatever case it is written."""

    def parsed(text: str) -> Word:
        for word in known:
            if word.lower() == text.lower():
                return word
        expected = ", ".join(f"'{word.lower()}'" for word in known)
        raise typer.BadParameter(f"{text!r} is not one of {expected}.")

    return parsed


def connection_of(file: Path | None, project: str | None = None) -> Connection:
    """The connection by the command's options and the environment. Raises Misconfigured."""
    return find_connection(os.environ, file, project)
