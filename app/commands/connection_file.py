"""connection.json in the data folder: the gateway's address, and a token for the command line on this machine."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from app.errors import GatewayError
from app.models import Project

NAME = "connection.json"
# Long enough for a gateway that is stopped over the holidays; while it runs, it rewrites the file every day.
TOKEN_VALIDITY = timedelta(days=7)
_RENEWAL_SECONDS = 24 * 3600.0

log = structlog.get_logger()


def contents(url: str, token: str | None, projects: Sequence[Project]) -> dict[str, Any]:
    """The contents of the file; `token` is None where an OIDC issuer signs users in."""
    return {
        "url": url,
        "graphql": f"{url}/graphql",
        "token": token,
        "project": projects[0].id,
        "projects": [{"id": project.id, "name": project.name} for project in projects],
    }


def write(path: Path, connection: Mapping[str, Any]) -> None:
    """Write the file atomically, readable only by its owner."""
    draft = path.with_name(f".connection.{os.getpid()}.json")  # another process may write it at the same time
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        json.dump(connection, file, indent=2)
    draft.rename(path)


def read_url(path: Path) -> str | None:
    """The address of the gateway that last ran on the folder; None when the file does not contain it."""
    try:
        url = json.loads(path.read_text())["url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return url if isinstance(url, str) else None


@contextmanager
def renewed(
    path: Path, connection: dict[str, Any], new_token: Callable[[], str], seconds: float = _RENEWAL_SECONDS
) -> Iterator[None]:
    """Rewrite the file with a new token every `seconds` during the block, so that its tokens can be short-lived."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(seconds):
            try:
                write(path, connection | {"token": new_token()})
            except (GatewayError, OSError) as error:  # the old token is valid for days; the next attempt may succeed
                log.warning("connection_file.not_renewed", reason=str(error))

    renewing = threading.Thread(target=renew, name="connection-file", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
