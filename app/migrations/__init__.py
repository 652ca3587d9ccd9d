"""The database's history, by Alembic. `migrate` brings a database to the newest state."""

from pathlib import Path

from alembic import command
from alembic.config import Config


def migrate(url: str) -> None:
    """Bring the database at `url` (a SQLAlchemy address) to the newest revision. Blocks."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = url
    command.upgrade(config, "head")
