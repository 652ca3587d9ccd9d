"""Migrations of the database, by Alembic. `migrate` upgrades a database to the newest revision."""

from functools import cache
from pathlib import Path

from app.errors import DatabaseUnavailable

_FOLDER = Path(__file__).parent


def migrate(url: str) -> None:
    """Upgrade the database at `url` (a SQLAlchemy address) to the newest revision. Blocks.

    Several processes may call it at once. Raises DatabaseUnavailable.
    """
    # Loaded only here: most processes find the tables up to date.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.attributes["url"] = url
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise DatabaseUnavailable(str(error)) from error


def is_newest(revision: str | None) -> bool:
    """Whether a database of this revision has exactly the tables of this version."""
    return revision == _revisions()[0]


def is_behind(revision: str | None) -> bool:
    """Whether a database of this revision has to be migrated; False for revisions of newer versions."""
    known = _revisions()
    return revision is None or revision in known[1:]


@cache
def _revisions() -> tuple[str, ...]:
    """Every revision that this version knows, newest first: what the names of the files begin with."""
    return tuple(sorted((path.name.partition("_")[0] for path in _FOLDER.glob("versions/0*.py")), reverse=True))
