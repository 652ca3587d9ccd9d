"""The database's history, by Alembic. `migrate` brings a database to the newest state."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory


def migrate(url: str) -> None:
    """Bring the database at `url` (a SQLAlchemy address) to the newest revision. Blocks.

    Harmless when several processes do it at once. Raises DatabaseUnavailable.
    """
    config = _config()
    config.attributes["url"] = url
    command.upgrade(config, "head")


def is_behind(revision: str | None) -> bool:
    """Whether a database of this revision has to be migrated. One that a newer version has migrated has not."""
    known = _revisions()
    return revision is None or revision in known[1:]


@cache
def _revisions() -> tuple[str, ...]:
    """Every revision that this version knows, the newest first."""
    return tuple(step.revision for step in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config
