"""Migrations of the database, by Alembic. `migrate` upgrades a database to the newest revision."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory


def migrate(url: str) -> None:
    """Upgrade the database at `url` (a SQLAlchemy address) to the newest revision. Blocks.

    Several processes may call it at once. Raises DatabaseUnavailable.
    """
    config = _config()
    config.attributes["url"] = url
    command.upgrade(config, "head")


def is_behind(revision: str | None) -> bool:
    """Whether a database of this revision has to be migrated; False for revisions of newer versions."""
    known = _revisions()
    return revision is None or revision in known[1:]


@cache
def _revisions() -> tuple[str, ...]:
    """Every revision that this version knows, newest first."""
    return tuple(step.revision for step in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config
