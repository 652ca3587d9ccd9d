"""What this machine has of what the gateway needs, and how to get the rest."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from app.adapters.chosen import needs_data_folder
from app.adapters.reaching import Trouble, broker_trouble, database_trouble, store_trouble
from app.settings import GIB, Settings
from app.web.graphiql import ASSETS

_LEAST_FREE = 10 * GIB


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Without what is `needed` the gateway can't work."""

    name: str
    ok: bool
    state: str
    remedy: str | None = None
    needed: bool = True

    def as_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return asdict(self)


def findings(settings: Settings) -> list[Finding]:
    """Look at everything, and try to reach what is outside of this machine.

    Nothing is changed; what is put into an S3 store to try its keys is removed again.
    """
    return [
        _python(),
        _program("qemu-img", "apt install qemu-utils", needed=True),
        _program("bwrap", "apt install bubblewrap: it confines qemu-img further", needed=False),
        *_places(settings),
        _assets(),
    ]


def _places(settings: Settings) -> Iterator[Finding]:
    """Where things are kept."""
    if needs_data_folder(settings):
        yield _data(settings)
    if settings.s3 is None:
        yield _room(settings)
    if settings.database_url is not None:
        yield _reached("database", settings.database_url, database_trouble(settings))
        yield _secret(settings)
    if settings.broker_url is not None:
        yield _reached("broker", settings.broker_url, broker_trouble(settings))
    if settings.object_store is not None and settings.s3 is not None:
        yield _reached("object store", settings.object_store, store_trouble(settings))


def _reached(name: str, address: SecretStr, trouble: Trouble | None) -> Finding:
    parts = urlsplit(address.get_secret_value())
    place = parts.netloc.rpartition("@")[2] + parts.path
    if trouble is None:
        return Finding(name, True, f"{place} answers")
    remedy = f"set {trouble.setting} right" if trouble.wrong else f"start it, or set {trouble.setting} right"
    return Finding(name, False, f"{place}: {trouble.reason}", trouble.remedy or remedy)


def _secret(settings: Settings) -> Finding:
    shared = settings.secret is not None or settings.jwt_issuer is not None
    state = "is given" if shared else "is made by each machine for itself"
    remedy = None if shared else "set IMAGES_SECRET: a token of one machine does not hold on another"
    return Finding("secret", shared, state, remedy, needed=False)


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")


def _program(name: str, remedy: str, *, needed: bool) -> Finding:
    path = shutil.which(name)
    return Finding(name, path is not None, path or "missing", None if path else remedy, needed)


def _data(settings: Settings) -> Finding:
    place = settings.data.absolute()
    while not place.exists():
        place = place.parent
    ok = place.is_dir() and os.access(place, os.W_OK)
    remedy = None if ok else "make it a folder that can be written to, or choose another with IMAGES_DATA"
    return Finding("data folder", ok, str(settings.data.absolute()), remedy)


def _room(settings: Settings) -> Finding:
    place = settings.data.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    remedy = None if free >= _LEAST_FREE else "images need room: free some, or choose another disk"
    return Finding("disk space", free >= _LEAST_FREE, f"{free / GIB:.1f} GiB free", remedy, needed=False)


def _assets() -> Finding:
    ok = (ASSETS / "page.js").is_file()
    return Finding("GraphiQL", ok, "built" if ok else "not built", None if ok else "make setup", needed=False)
