"""What this machine has of what the gateway needs, and how to get the rest."""

import os
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import Any

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
    """Look at everything. Changes nothing."""
    return [
        _python(),
        _program("qemu-img", "apt install qemu-utils", needed=True),
        _program("bwrap", "apt install bubblewrap: it confines qemu-img further", needed=False),
        _data(settings),
        _room(settings),
        _assets(),
    ]


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
