"""Runs qemu-img, with one function per subcommand. Every call names the format, so that QEMU never guesses it."""

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
    """An image in a sandbox and how to open it: QEMU's name for it, QEMU's driver, and an option of that driver.

    `socket`: the socket on which it is served over NBD; None if it is a file. `backing`: the qcow2 file under it; None
    if it has none, or if the image is to name it.
    """

    name: str
    driver: str
    option: str | None = None
    socket: str | None = None
    backing: str | None = None

    @property
    def arguments(self) -> list[str]:
        """The arguments that name it and its format to any of QEMU's programs."""
        if self.backing is not None:
            # Only JSON can express that the file under it has none itself, whatever that file says.
            under = {"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": self.backing}}
            top = {"driver": self.driver, "file": {"driver": "file", "filename": self.name}, "backing": under}
            return ["json:" + json.dumps(top)]
        if self.option is None and self.socket is None:
            return ["-f", self.driver, self.name]
        options = [f"driver={self.driver}", *([self.option] if self.option else [])]
        if self.socket is None:
            options += ["file.driver=file", f"file.filename={self.name}"]
        else:
            options += ["file.driver=nbd", "file.server.type=unix", f"file.server.path={self.socket}"]
        return ["--image-opts", ",".join(options)]

    def on_socket(self) -> "Image":
        """The same image, for a sandbox whose source is served on a socket."""
        return replace(self, name=f"nbd+unix://?socket={SOURCE_SOCKET}", socket=SOURCE_SOCKET)


def source(driver: str, option: str | None = None) -> Image:
    """The sandbox's source, read by QEMU's `driver`."""
    return Image(SOURCE, driver, option)


RESULT_IMAGE = Image(RESULT, "qcow2")
PACKED_IMAGE = Image(PACKED, "qcow2")


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The report of `qemu-img check`: corruptions, leaked (unused but not free) clusters, the image's end (bytes)."""

    corruptions: int
    leaks: int
    end_offset: int | None

    @property
    def clean(self) -> bool:
        return not self.corruptions and not self.leaks


def info(sandbox: Sandbox, image: Image, bounds: Bounds) -> dict[str, Any]:
    """Run `qemu-img info`; return its JSON about the header. Raises QemuError, Cancelled."""
    output = run_for_output(sandbox, ["info", "-U", "--output=json", *image.arguments], bounds)
    found = _json(output, "info")
    if not isinstance(found.get("virtual-size"), int):
        raise QemuFailed("qemu-img info returned no size")
    return found


def check(sandbox: Sandbox, image: Image, bounds: Bounds) -> CheckReport:
    """Run `qemu-img check`: whether the tables of a qcow2 are consistent; reads no data.

    Raises QemuRefused if the image can't be checked at all, other QemuErrors, Cancelled.
    """
    # Exit codes 2 (corruptions) and 3 (leaks) come with the same report as 0.
    arguments = ["check", "-U", "--output=json", *image.arguments]
    report = _json(run_for_output(sandbox, arguments, bounds, accepted=(0, 2, 3)), "check")
    if report.get("check-errors"):
        raise QemuRefused("check", 1, "qemu-img: errors while checking")
    return CheckReport(
        corruptions=int(report.get("corruptions", 0)),
        leaks=int(report.get("leaks", 0)),
        end_offset=report.get("image-end-offset"),
    )


@dataclass(frozen=True, slots=True)
class SourceMap:
    """The data's places from `qemu-img map`; `unplaced`: whether some data has no place because it is compressed."""

    extents: Extents
    unplaced: bool


def map_extents(sandbox: Sandbox, image: Image, bounds: Bounds, max_extents: int) -> SourceMap:
    """Run `qemu-img map`: where in the file the data of the disk is. Reads the output as it arrives, a line per extent.

    Raises TooManyExtents, DoubtfulMap if data is in another file, QemuError, Cancelled.
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
            raise QemuFailed("qemu-img map returned an invalid extent") from error

    def _note(self, entry: dict[str, Any]) -> None:
        if not entry["data"] or entry["zero"]:
            return
        if entry["depth"] != 0:
            raise DoubtfulMap("data in another file")
        if "offset" not in entry or entry.get("compressed"):
            self.unplaced = True
            return
        self.extents.add(entry["start"], entry["length"], entry["offset"])
        if len(self.extents) > self._max_extents:
            raise TooManyExtents(f"more than {self._max_extents}")


def convert(sandbox: Sandbox, image: Image, virtual_size: int, bounds: Bounds, report: Callable[[int], None]) -> None:
    """Run `qemu-img convert` into the sandbox's `out/result`, as plain qcow2; `report` gets the bytes of the disk done.

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
        raise QemuFailed(f"qemu-img {subcommand} did not return JSON") from error
    if not isinstance(found, dict):
        raise QemuFailed(f"qemu-img {subcommand} did not return a JSON object")
    return found
