"""The SQL condition that a text contains another one, in the fastest form of each database."""

from typing import Any

from sqlalchemy import Boolean, ColumnElement, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

_ESCAPE = "/"


class _Contains(FunctionElement[bool]):
    """Takes three clauses: the column, the text, and the same text as a LIKE pattern."""

    type = Boolean()
    inherit_cache = True


def contains(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """The condition that a column contains a text literally."""
    pattern = text
    for special in (_ESCAPE, "%", "_"):
        pattern = pattern.replace(special, _ESCAPE + special)
    return _Contains(column, literal(text), literal(f"%{pattern}%"))


@compiles(_Contains)
def _like(element: _Contains, compiler: SQLCompiler, **options: Any) -> str:
    """PostgreSQL uses LIKE, for which it has an index."""
    column, _, pattern = element.clauses
    return f"({compiler.process(column, **options)} LIKE {compiler.process(pattern, **options)} ESCAPE '{_ESCAPE}')"


@compiles(_Contains, "sqlite")
def _instr(element: _Contains, compiler: SQLCompiler, **options: Any) -> str:
    """SQLite uses instr: its LIKE compares character by character and takes up to 30 times as long."""
    column, text, _ = element.clauses
    return f"(instr({compiler.process(column, **options)}, {compiler.process(text, **options)}) > 0)"
