"""Where a command prints: results to stdout, what people want to know meanwhile to stderr."""

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

# Without a terminal nothing has to fit: lines stay whole, for whatever reads them.
_UNLIMITED = 10_000


class Output:
    """The two streams of a command, for people or, with `as_json`, for programs."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.out = _console(sys.stdout)
        self.err = _console(sys.stderr)

    @property
    def shows_bars(self) -> bool:
        """Whether somebody sits there who can see a bar grow."""
        return not self.as_json and self.err.is_terminal and not self.err.is_dumb_terminal

    def json(self, value: object, *, indent: int | None = 2) -> None:
        """Print a value as JSON, models as they came. ASCII only, so that no name does anything to a terminal."""
        self.out.file.write(json.dumps(value, indent=indent, default=as_received) + "\n")
        self.out.file.flush()

    def line(self, text: str | Text) -> None:
        """Print one line of the result for people."""
        self.out.print(text if isinstance(text, Text) else Text(visible(text)), soft_wrap=True)
        self.out.file.flush()

    def note(self, text: str) -> None:
        """Tell people something; programs are not told."""
        if not self.as_json:
            self.err.print(Text(visible(text)), soft_wrap=True)

    def error(self, error: ClientError) -> None:
        """Say why the command ends."""
        if self.as_json:
            return self.json({"error": error.as_json()}, indent=None)
        told = Text.assemble(("images: ", "bold red"), visible(error.message))
        if error.hint:
            told.append(f"\n        {visible(error.hint)}")
        self.err.print(told, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()) -> None:
        """Print rows below the names of their columns, numbers to the `right`; the last column is never broken."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for number, name in enumerate(columns, 1):
            side: Literal["left", "right"] = "right" if name in right else "left"
            table.add_column(name, overflow="fold", justify=side, no_wrap=number == len(columns))
        for row in rows:
            table.add_row(*(Text(visible(cell)) for cell in row))
        self.out.print(table)

    def details(self, fields: list[tuple[str, Any]]) -> None:
        """Print names and values below each other; those without a value are left out."""
        width = max(len(name) for name, _ in fields)
        for name, value in fields:
            if value not in (None, "", []):
                self.line(Text.assemble((name.ljust(width + 2), "bold"), visible(str(value))))


def as_received(value: object) -> dict[str, Any]:
    """The answer that a model was read from: the same names, nulls and order. Raises TypeError for other objects."""
    if not isinstance(value, BaseModel):
        raise TypeError(f"{type(value).__name__} has no JSON.")
    return value.model_dump(by_alias=True, exclude_unset=True)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich would end the process with 1, which has another meaning here.
        raise BrokenPipeError


def _console(stream: TextIO) -> Console:
    if isinstance(stream, io.TextIOWrapper):
        # A name that the terminal's encoding lacks must not end the command.
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
