"""Prints the output of a command: results to stdout, notes, progress and errors to stderr."""

import io
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, TextIO

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.client.errors import ClientError
from app.client.terminal.text import visible

# Without a terminal, lines are not wrapped, so that programs can read them.
_UNLIMITED = 10_000


class Output:
    """The two output streams of a command, for people or, with `as_json`, for programs."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.out = _console(sys.stdout)
        self.err = _console(sys.stderr)

    @property
    def shows_bars(self) -> bool:
        """Whether progress bars are shown: only on a terminal that can redraw lines."""
        return not self.as_json and self.err.is_terminal and not self.err.is_dumb_terminal

    def json(self, value: object, *, indent: int | None = 2) -> None:
        """Print a value as JSON, models as received. ASCII only, so that no name can control the terminal."""
        self.out.file.write(json.dumps(value, indent=indent, default=as_received) + "\n")
        self.out.file.flush()

    def line(self, text: str | Text) -> None:
        """Print one line of the result, for people."""
        self.out.print(text if isinstance(text, Text) else Text(visible(text)), soft_wrap=True)
        self.out.file.flush()

    def text(self, text: str) -> None:
        """Print text of several lines as it is, for people; only tabs and line feeds control the terminal."""
        self.out.file.write("".join(one if one in "\n\t" else visible(one) for one in text))
        self.out.file.flush()

    def note(self, text: str) -> None:
        """Print a note for people; nothing with `as_json`."""
        if not self.as_json:
            self.err.print(Text(visible(text)), soft_wrap=True)

    def error(self, error: ClientError) -> None:
        """Print the error that ends the command."""
        if self.as_json:
            return self.json({"error": error.as_json()}, indent=None)
        text = Text.assemble(("images: ", "bold red"), visible(error.message))
        if error.hint:
            text.append(f"\n        {visible(error.hint)}")
        self.err.print(text, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()) -> None:
        """Print a table. The columns in `right` are right-aligned; the last column is never wrapped."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for number, name in enumerate(columns, 1):
            side: Literal["left", "right"] = "right" if name in right else "left"
            table.add_column(name, overflow="fold", justify=side, no_wrap=number == len(columns))
        for row in rows:
            table.add_row(*(Text(visible(cell)) for cell in row))
        self.out.print(table)

    def details(self, fields: list[tuple[str, Any]]) -> None:
        """Print one name and value per line, without those that have no value."""
        width = max(len(name) for name, _ in fields)
        for name, value in fields:
            if value not in (None, "", []):
                self.line(Text.assemble((name.ljust(width + 2), "bold"), visible(str(value))))


def as_received(value: object) -> dict[str, Any]:
    """The response that a model was read from: the same names, nulls and order. Raises TypeError for other objects."""
    if not isinstance(value, BaseModel):
        raise TypeError(f"{type(value).__name__} has no JSON.")
    return value.model_dump(by_alias=True, exclude_unset=True)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich would exit with 1, which has a different meaning here.
        raise BrokenPipeError


def _console(stream: TextIO) -> Console:
    if isinstance(stream, io.TextIOWrapper):
        # A character that the terminal's encoding lacks must not end the command.
        stream.reconfigure(errors="backslashreplace")
    terminal = stream.isatty()
    return _Console(
        file=stream,
        force_terminal=terminal,
        width=None if terminal else _UNLIMITED,
        markup=False,
        highlight=False,
        emoji=False,
    )
