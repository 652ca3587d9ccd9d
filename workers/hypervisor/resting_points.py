"""Points in time of volumes without a running server: the volume as it is, read by a confined qemu-nbd.

Until such a point is released, no server is started from the volume.
"""

import os
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from app.sizes import GIB
from workers.errors import Cancelled, QemuError
from workers.hypervisor.files import VolumeFiles
from workers.hypervisor.port import Extent, PointLost
from workers.limits import Limits
from workers.qemu.confinement import SOURCE, Sandbox
from workers.qemu.img import Image
from workers.qemu.nbd import export
from workers.qemu.nbd_client import ZERO
from workers.qemu.nbd_protocol import ALLOCATION_DEPTH

_PREFIX = "reading-"
_SPAN = 1 * GIB
# In qemu:allocation-depth, the volume's own file.
_TOP = 1


class RestingReader:
    """Reads the disk of a volume over its base. Starts a process, which `close` ends. Raises PointLost."""

    def __init__(self, volume: VolumeFiles, base: Path | None, size: int, limits: Limits) -> None:
        self._stack = ExitStack()
        try:
            sandbox = self._stack.enter_context(_VolumeSandbox(volume, base, limits))
            image = Image(SOURCE, "qcow2", backing=None if base is None else str(base))
            bounds = limits.for_copy(size, size, size)
            running = self._stack.enter_context(export(sandbox, image, bounds, contexts=[ALLOCATION_DEPTH]))
            self._allocation = self._stack.enter_context(running.connect())
            self._depth = self._stack.enter_context(running.connect(ALLOCATION_DEPTH))
        except (QemuError, Cancelled, FileNotFoundError) as error:
            self._stack.close()
            raise PointLost(f"volume {volume.id} can't be read: {error}") from error
        except BaseException:
            self._stack.close()
            raise
        self.size = self._allocation.size

    def close(self) -> None:
        """End the process."""
        self._stack.close()

    def extents(self, offset: int, length: int) -> Sequence[Extent]:
        """See PointReader."""
        length = min(length, _SPAN)
        try:
            allocation = self._allocation.block_status(offset, length)
            depths = self._depth.block_status(offset, length)
        except QemuError as error:
            raise PointLost(str(error)) from error
        extents: list[Extent] = []
        for span, flags, depth in _together(allocation, depths):
            data = not flags & ZERO
            extents.append(Extent(offset, span, data, data and depth > _TOP))
            offset += span
        return extents

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See PointReader."""
        try:
            self._allocation.read_into(offset, buffer)
        except QemuError as error:
            raise PointLost(str(error)) from error


def remove_leftovers(volume: VolumeFiles) -> None:
    """Delete the folders of readers that were killed."""
    for folder in volume.folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


class _VolumeSandbox(Sandbox):
    """A sandbox whose source is the disk of a volume, over its base."""

    def __init__(self, volume: VolumeFiles, base: Path | None, limits: Limits) -> None:
        super().__init__(volume.folder / f"{_PREFIX}{secrets.token_hex(8)}", limits, threading.Event())
        self._disk = volume.disk
        self._base = base

    def _build(self) -> None:
        super()._build()
        if self._base is not None:
            self.confinement = replace(self.confinement, shown=(*self.confinement.shown, str(self._base)))

    def _lay_source(self, user: int | None) -> None:
        # A link, since bubblewrap shows only this folder. QEMU could have replaced the disk by another file.
        source = self.folder / SOURCE
        os.link(self._disk, source, follow_symlinks=False)
        if not stat.S_ISREG(source.lstat().st_mode):
            raise FileNotFoundError(f"{self._disk.name} is not a plain file")

    def _take_source_back(self) -> None:
        """The folder is deleted with the link in it."""


def _together(left: Sequence[tuple[int, int]], right: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Two reports of (length, flags) about one range as (length, flags of the left one, flags of the right one)."""
    lefts, rights = list(reversed(left)), list(reversed(right))
    while lefts and rights:
        (of_left, flags), (of_right, others) = lefts.pop(), rights.pop()
        span = min(of_left, of_right)
        yield span, flags, others
        if of_left > span:
            lefts.append((of_left - span, flags))
        if of_right > span:
            rights.append((of_right - span, others))
