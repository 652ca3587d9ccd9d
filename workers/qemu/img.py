"""qemu-img, one function per subcommand. Every call names the format, so that nothing is ever guessed."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from workers.errors import QemuFailed, QemuRefused
from workers.limits import Bounds
from workers.qcow2.extents import DoubtfulMap, Extents, TooManyExtents
from workers.qemu.confinement import PACKED, RESULT, SOURCE, SOURCE_SOCKET, Sandbox
from workers.qemu.processes import run, run_for_output

_PROGRESS = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")


@dataclass(frozen=True, slots=True)
class Image:
    """What is in a sandbox and how to open it: QEMU's name of it, QEMU's driver, and an option of that driver.

    `socket`: it is no file, but is served there by NBD.
    """

    name: str
    driver: str
    option: str | None = None
    socket: str | None = None

    @property
    def arguments(self) -> list[str]:
        """How to name it to any of QEMU's programs, its format included."""
        if self.option is None and self.socket is None:
            return ["-f", self.driver, self.name]
        options = [f"driver={self.driver}", *([self.option] if self.option else [])]
        if self.socket is None:
            options += ["file.driver=file", f"file.filename={self.name}"]
        else:
            options += ["file.driver=nbd", "file.server.type=unix", f"file.server.path={self.socket}"]
        return ["--image-opts", ",".join(options)]

    def on_socket(self) -> "Image":
        """The sandbox's source, read in the same way, where it is not a file but a socket."""
        return replace(self, name=f"nbd+unix://?socket={SOURCE_SOCKET}", socket=SOURCE_SOCKET)


def source(driver: str, option: str | None = None) -> Image:
    """The sandbox's source, read by QEMU's `driver`."""
    return Image(SOURCE, driver, option)


RESULT_IMAGE = Image(RESULT, "qcow2")
PACKED_IMAGE = Image(PACKED, "qcow2")


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `qemu-img check` found: contradictions, clusters that nobody uses, and where the image ends (bytes)."""

    corruptions: int
    leaks: int
    end_offset: int | None

    @property
    def clean(self) -> bool:
        return not self.corruptions and not self.leaks


def info(sandbox: Sandbox, image: Image, bounds: Bounds) -> dict[str, Any]:
    """`qemu-img info`: what QEMU sees in a header, as its JSON says it. Raises QemuError, Cancelled."""
    output = run_for_output(sandbox, ["info", "-U", "--output=json", *image.arguments], bounds)
    found = _json(output, "info")
    if not isinstance(found.get("virtual-size"), int):
        raise QemuFailed("qemu-img info names no size")
    return found


def check(sandbox: Sandbox, image: Image, bounds: Bounds) -> CheckReport:
    """`qemu-img check`: whether a qcow2's tables agree with each other; reads no data.

    Raises QemuRefused when it can't be checked at all, other QemuErrors, Cancelled.
    """
    # 2: corruptions, 3: leaks; both come with the same report as a clean end.
    arguments = ["check", "-U", "--output=json", *image.arguments]
    report = _json(run_for_output(sandbox, arguments, bounds, fine=(0, 2, 3)), "check")
    if report.get("check-errors"):
        raise QemuRefused("check", 1, "qemu-img: errors while checking")
    return CheckReport(
        corruptions=int(report.get("corruptions", 0)),
        leaks=int(report.get("leaks", 0)),
        end_offset=report.get("image-end-offset"),
    )


@dataclass(frozen=True, slots=True)
class SourceMap:
    """Where the data lies, as `qemu-img map` tells; `unplaced` says that some has no place (it is compressed)."""

    extents: Extents
    unplaced: bool


def map_extents(sandbox: Sandbox, image: Image, bounds: Bounds, max_extents: int) -> SourceMap:
    """`qemu-img map`: where in the file the data of the disk lies. Read as it comes, one extent per line.

    Raises TooManyExtents, DoubtfulMap when data lies in another file, QemuError, Cancelled.
    """
    reader = _MapReader(max_extents)
    run(sandbox, ["map", "-U", "--output=json", *image.arguments], bounds, reader.feed)
    return SourceMap(reader.extents, reader.unplaced)


class _MapReader:
    def __init__(self, max_extents: int) -> None:
        self.extents = Extents()
        self.unplaced = False
        self._max_extents = max_extents
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._take(line.strip(b"[], \r"))

    def _take(self, line: bytes) -> None:
        if not line:
            return
        entry = _json(line, "map")
        try:
            self._note(entry)
        except (KeyError, TypeError, OverflowError) as error:
            raise QemuFailed("qemu-img map names an extent that makes no sense") from error

    def _note(self, entry: dict[str, Any]) -> None:
        if not entry["data"] or entry["zero"]:
            return
        if entry["depth"] != 0:
            raise DoubtfulMap("data of another file")
        if "offset" not in entry or entry.get("compressed"):
            self.unplaced = True
            return
        self.extents.add(entry["start"], entry["length"], entry["offset"])
        if len(self.extents) > self._max_extents:
            raise TooManyExtents(f"more than {self._max_extents}")


def convert(sandbox: Sandbox, image: Image, virtual_size: int, bounds: Bounds, report: Callable[[int], None]) -> None:
    """`qemu-img convert` into the sandbox's `out/result`, as plain qcow2; tells the bytes of the disk done.

    Raises QemuError, Cancelled.
    """
    arguments = ["convert", "-U", "-W", "-m", "16", "-p", *image.arguments]
    arguments += ["-O", "qcow2", "-o", "compat=1.1,cluster_size=65536,extended_l2=off", RESULT]

    def progress(piece: bytes) -> None:
        shares = _PROGRESS.findall(piece)
        if shares:
            report(int(float(shares[-1]) * virtual_size / 100))

    run(sandbox, arguments, bounds, progress)


def _json(output: bytes, subcommand: str) -> dict[str, Any]:
    try:
        found = json.loads(output)
    except ValueError as error:
        raise QemuFailed(f"qemu-img {subcommand} does not speak JSON") from error
    if not isinstance(found, dict):
        raise QemuFailed(f"qemu-img {subcommand} speaks of something else")
    return found
