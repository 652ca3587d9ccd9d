"""The databases that a gateway can be on, each new and with its tables made."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.database.migrations import migrate
from app.settings import load_settings
from tests.servers.postgresql import PostgreSQL

SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"


@dataclass(frozen=True, slots=True)
class Place:
    """A new database: the settings of a gateway on it, its SQLAlchemy address, and a folder for the rest."""

    folder: Path
    settings: Mapping[str, str]
    address: str


class Databases(Protocol):
    """Gives a new database of one kind in a folder, as often as it is asked."""

    def __call__(self, folder: Path) -> Place: ...


@contextmanager
def databases(folder: Path) -> Iterator[Mapping[str, Databases]]:
    """By the kind of database what makes a new one. One PostgreSQL runs meanwhile, on its own defaults."""
    with PostgreSQL(folder / "postgresql") as server:

        def on_sqlite(folder: Path) -> Place:
            return _place(folder, {})

        def on_postgresql(folder: Path) -> Place:
            return _place(folder, {"database_url": server.new_database(migrated=False)})

        yield {SQLITE: on_sqlite, POSTGRESQL: on_postgresql}


def _place(folder: Path, given: Mapping[str, str]) -> Place:
    data = folder / "data"
    data.mkdir(parents=True)
    address = load_settings(data=data, **given).database_address
    migrate(address)
    settings = {f"IMAGES_{name.upper()}": value for name, value in given.items()}
    return Place(folder, {"IMAGES_DATA": str(data), **settings}, address)
