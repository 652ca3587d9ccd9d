"""Where the gateway is and who is calling: IMAGES_URL and IMAGES_TOKEN, or the file that `images up` writes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.client.errors import Misconfigured

EMBEDDED_FILE = Path("data") / "connection.json"

_HOW = (
    "Set IMAGES_URL (for example http://127.0.0.1:8000) and IMAGES_TOKEN, or name the connection.json "
    "that `images up` writes with --connection or IMAGES_CONNECTION."
)


@dataclass(frozen=True, slots=True)
class Connection:
    """The address of the GraphQL endpoint, the bearer token, and the name or id of the project, if one is set."""

    graphql: str
    token: str = field(repr=False)
    project: str | None = None


def find_connection(environ: Mapping[str, str], file: Path | None = None, project: str | None = None) -> Connection:
    """The connection that a command uses.

    `file`, which --connection names, comes first, then IMAGES_URL with IMAGES_TOKEN, then the file that
    IMAGES_CONNECTION names, then ./data/connection.json. The address and the token always come from the same place:
    otherwise the token of one gateway could be sent to another. A file may also name a default project. Raises
    Misconfigured.
    """
    if file is None:
        url, token = environ.get("IMAGES_URL", "").strip(), environ.get("IMAGES_TOKEN", "").strip()
        if url or token:
            return _of_environment(url, token, project)
        named = environ.get("IMAGES_CONNECTION", "").strip()
        file = Path(named) if named else None
    if file is None:
        if not EMBEDDED_FILE.exists():
            raise Misconfigured("No gateway is configured.", hint=_HOW)
        file = EMBEDDED_FILE
    content = _read(file)
    default = content.get("project")
    return Connection(
        _endpoint(_text(content, "graphql", file), str(file)),
        _token(_text(content, "token", file)),
        project or (default if isinstance(default, str) else None),
    )


def _of_environment(url: str, token: str, project: str | None) -> Connection:
    if not token:
        raise Misconfigured(
            "IMAGES_URL is set, but IMAGES_TOKEN is not.",
            hint="Set IMAGES_TOKEN to a bearer token of that gateway; `images token` prints one for the embedded one.",
        )
    if not url:
        raise Misconfigured(
            "IMAGES_TOKEN is set, but IMAGES_URL is not.",
            hint="Set IMAGES_URL to the gateway's address, for example http://127.0.0.1:8000.",
        )
    return Connection(_endpoint(url, "IMAGES_URL"), _token(token), project)


def _endpoint(url: str, source: str) -> str:
    """The address of the endpoint: `url`, with /graphql appended if it lacks it."""
    wrong = Misconfigured(
        f"The address in {source} is not valid.", hint="Use an address such as https://images.example.org."
    )
    try:
        parts = urlsplit(url)
        # Reading the port checks it.
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise wrong from None
    if not usable or parts.username is not None or parts.query or parts.fragment or not url.isprintable():
        raise wrong
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith("/graphql") else f"{path}/graphql").geturl()


def _token(token: str) -> str:
    """A token that is valid in a header (RFC 6750, section 2.1). Raises Misconfigured."""
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise Misconfigured("The token is empty, or contains spaces, line breaks or other invalid characters.")
    return token


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise Misconfigured(f"{file} can't be read: {error.strerror}.", hint=_HOW) from error
    except ValueError as error:
        raise Misconfigured(f"{file} is not valid JSON.", hint=_HOW) from error
    if not isinstance(content, dict):
        raise Misconfigured(f"{file} does not describe a connection.", hint=_HOW)
    return content


def _text(content: Mapping[str, Any], name: str, file: Path) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not value:
        raise Misconfigured(f"{file} does not contain a {name}.", hint=_HOW)
    return value
