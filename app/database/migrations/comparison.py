"""What Alembic ignores when it compares a database with the models."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Index

from app.models import DIALECT


def belongs_to(dialect: str) -> Callable[..., bool]:
    """Alembic's `include_object` that ignores indexes which only another dialect has."""

    def include(item: Any, _name: str | None, _kind: str, _reflected: bool, _other: Any) -> bool:
        return not isinstance(item, Index) or item.info.get(DIALECT, dialect) == dialect

    return include
