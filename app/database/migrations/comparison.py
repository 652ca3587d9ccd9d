"""What Alembic is to leave out when it compares a database with the models."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Index

from app.models import DIALECT


def belongs_to(dialect: str) -> Callable[..., bool]:
    """Gives Alembic's `include_object`: indexes that only databases of another dialect have are left out."""

    def include(item: Any, _name: str | None, _kind: str, _reflected: bool, _other: Any) -> bool:
        return not isinstance(item, Index) or item.info.get(DIALECT, dialect) == dialect

    return include
