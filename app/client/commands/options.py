"""Options that several commands share, and how values of the API's enums are parsed."""

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
        "--project", "-p", envvar="IMAGES_PROJECT", help="Project, by name or id; needed if you have several."
    ),
]
ConnectionFile = Annotated[
    Path | None,
    typer.Option(
        "--connection",
        help="The connection.json of a gateway, instead of IMAGES_URL and IMAGES_TOKEN; or set IMAGES_CONNECTION.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Delete without confirmation.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, errors included, without progress bars and notes.")]
PatienceSeconds = Annotated[
    float,
    typer.Option("--patience", min=0, metavar="SECONDS", help="How long to retry while the gateway does not respond."),
]

# Hints in terms of commands for mutations that create images, by the code of their error.
IMAGE_ADVICE = {
    "QUOTA_EXCEEDED": "Run `images quota` to see the limits. Delete images or snapshots that are no longer needed with "
    "`images delete`, or have the limit raised."
}


def words(known: type[OpenEnum]) -> str:
    """The values that an option accepts, as its help shows them."""
    return "|".join(word.lower() for word in known)


def word_of(known: type[Word]) -> Callable[[str], Word]:
    """A parser for the values of an enum of the API, in any case."""

    def parsed(text: str) -> Word:
        for word in known:
            if word.lower() == text.lower():
                return word
        expected = ", ".join(f"'{word.lower()}'" for word in known)
        raise typer.BadParameter(f"{text!r} is not one of {expected}.")

    return parsed


def connection_of(file: Path | None, project: str | None = None) -> Connection:
    """The connection from the command's options and the environment. Raises Misconfigured."""
    return find_connection(os.environ, file, project)
