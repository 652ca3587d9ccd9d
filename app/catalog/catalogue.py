"""The convention of the use cases: what they work on, and what those that write return.

A use case is one function: all that a request of the API, or a job of a worker, does to the catalogue. It takes the
`Catalogue` first, checks who may do this, opens its own sessions and transactions, and raises what its docstring names.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from app.database.sessions import Database
from app.ports import ObjectStore
from app.settings import Settings

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The rows, the bytes that they name, and the settings."""

    database: Database
    store: ObjectStore
    settings: Settings


@dataclass(frozen=True, slots=True)
class Written(Generic[Row]):
    """The row that a use case wrote, and the position of the change in the feed; None if it published no event.

    It publishes none if nothing changed, for example because an earlier request has already made the change.
    """

    row: Row
    position: int | None
