"""Points in time of volumes of running servers.

A copy-before-write filter saves what the guest overwrites into a file, the fleece. The node `access` above it reads as
the volume did at the moment when the filter was inserted, and QEMU serves it over NBD. If the fleece is full or too
slow, the point is lost and the guest continues (`break-snapshot`). The volume itself never depends on a point.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from app.sizes import GIB, KIB
from workers.errors import QemuError
from workers.hypervisor.files import ServerFiles, VolumeFiles
from workers.hypervisor.machine import device_path, disk_name, fleece_path, points_path
from workers.hypervisor.monitor import Monitor
from workers.hypervisor.port import Extent, HypervisorError, PointLost
from workers.qcow2.extents import data_ranges
from workers.qemu.nbd_client import HOLE, ZERO, NbdClient
from workers.qemu.sockets import connect

# QEMU 7.2 computes a longer time with 32 bits, and waits for a fraction of it.
_COPY_SECONDS = 4
_CONNECTIONS = 16
# The unit of what the filter saves. QEMU 7.2 takes a request that begins with overwritten units, and continues beyond
# them, for one of unchanged bytes, and answers with new ones (hbitmap_status). So no read covers two units.
_UNIT = 64 * KIB
_IN_FLIGHT = 16
# The most that one call for extents covers.
_SPAN = 1 * GIB


async def take(
    monitor: Monitor,
    server: ServerFiles,
    volume: VolumeFiles,
    number: int,
    export: str,
    freezing: AbstractAsyncContextManager[bool],
) -> bool:
    """Take a point of disk `number` of a server, and serve it as `export`; return whether the guest was frozen.

    The fleece exists already, as long as the disk. After an error, the caller calls `drop`. Raises Refused, NotRunning,
    HypervisorUnavailable.
    """
    fleece, filtering, access = _nodes(number)
    file = {"driver": "file", "filename": fleece_path(number, volume), "discard": "unmap"}
    # Without `no-flush`, QEMU would write the fleece to the disk when it is removed, and stop the guest meanwhile.
    cache = {"direct": False, "no-flush": True}
    await monitor.execute("blockdev-add", driver="raw", node_name=fleece, discard="unmap", cache=cache, file=file)
    await monitor.execute(
        "blockdev-add",
        driver="copy-before-write",
        node_name=filtering,
        file=disk_name(number),
        target=fleece,
        on_cbw_error="break-snapshot",
        cbw_timeout=_COPY_SECONDS,
    )
    async with freezing as frozen:
        # This is the moment.
        await monitor.execute("qom-set", path=device_path(number), property="drive", value=filtering)
    await monitor.execute("blockdev-add", driver="snapshot-access", node_name=access, file=filtering)
    # There is one server per QEMU, which an earlier point may have started.
    address = {"type": "unix", "data": {"path": points_path(server)}}
    await monitor.attempt("nbd-server-start", addr=address, max_connections=_CONNECTIONS)
    await monitor.execute("block-export-add", type="nbd", id=access, node_name=access, name=export, writable=False)
    return frozen


async def drop(monitor: Monitor, number: int) -> None:
    """Undo `take`, however far it got; readers of the point are disconnected.

    Raises HypervisorError if QEMU keeps a part of it.
    """
    fleece, filtering, access = _nodes(number)
    await monitor.attempt_until("BLOCK_EXPORT_DELETED", "id", access, "block-export-del", id=access, mode="hard")
    await monitor.attempt("blockdev-del", node_name=access)
    # QEMU 7.2 aborts when a device is given the node that it has.
    if await monitor.execute("qom-get", path=device_path(number), property="drive") != disk_name(number):
        await monitor.attempt("qom-set", path=device_path(number), property="drive", value=disk_name(number))
    await monitor.attempt("blockdev-del", node_name=filtering)
    await monitor.attempt("blockdev-del", node_name=fleece)
    names = {node.get("node-name") for node in await monitor.execute("query-named-block-nodes", flat=True)}
    if left := sorted(names & {fleece, filtering, access}):
        raise HypervisorError(f"QEMU still has {', '.join(left)}")


class LiveReader:
    """Reads a point that QEMU serves. `base_size` is the size of the volume's base; 0 if it has none."""

    def __init__(self, server: ServerFiles, volume: VolumeFiles, export: str, base_size: int, seconds: float) -> None:
        self._base_size = base_size
        try:
            connection = connect(server.points)
        except OSError as error:
            raise PointLost(f"server {server.id} serves no points: {error}") from error
        connection.settimeout(seconds)
        self._client = _client(connection, export)
        self.size = self._client.size
        try:
            self._fleece = _opened(volume.fleece)
        except OSError as error:
            self._client.close()
            raise PointLost(f"volume {volume.id} has no fleece: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
        os.close(self._fleece)

    def extents(self, offset: int, length: int) -> Sequence[Extent]:
        """See PointReader."""
        extents: list[Extent] = []
        try:
            for span, flags in self._client.block_status(offset, min(length, _SPAN)):
                for part, certain in self._certain(offset, span, flags):
                    extents += self._extents(offset, part, certain)
                    offset += part
        except (QemuError, OSError) as error:
            raise PointLost(str(error)) from error
        return extents

    def _certain(self, offset: int, length: int, flags: int) -> Iterator[tuple[int, int]]:
        """Lengths and flags in a range, given what QEMU says of it in answer to a long request.

        Of a unit that was overwritten, such an answer may say what it is now: data, or zeros if the guest has discarded
        it. Data is read unit by unit, which is safe. Anything else is believed only where the fleece has a hole, and
        asked again where it has data: whatever is not zeros was saved there before it was overwritten.
        """
        end = offset + length
        for begin, stop in data_ranges(self._fleece, offset, end) if flags & (HOLE | ZERO) else ():
            begin, stop = max(offset, begin // _UNIT * _UNIT), min(end, -(-stop // _UNIT) * _UNIT)
            if begin > offset:
                yield begin - offset, flags
            if stop > begin:
                yield from self._client.block_status(begin, stop - begin, within=_UNIT)
                offset = stop
        if end > offset:
            yield end - offset, flags

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See PointReader."""
        try:
            for _ in self._client.read_many(_units(offset, buffer), _IN_FLIGHT):
                pass
        except QemuError as error:
            raise PointLost(str(error)) from error

    def _extents(self, offset: int, length: int, flags: int) -> list[Extent]:
        """The extents of a range with these flags.

        QEMU reports only the volume's own file: HOLE without ZERO means what the base has, and zeros beyond its end.
        """
        if flags & ZERO:
            return [Extent(offset, length, data=False, base=False)]
        if not flags & HOLE:
            return [Extent(offset, length, data=True, base=False)]
        within = max(0, min(length, self._base_size - offset))
        split = [Extent(offset, within, data=True, base=True)] if within else []
        if within < length:
            split.append(Extent(offset + within, length - within, data=False, base=False))
        return split


def _opened(fleece: Path) -> int:
    """Open a fleece, which QEMU could have replaced. Raises OSError."""
    fd = os.open(fleece, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a plain file")
    return fd


def _units(offset: int, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The reads that fill a buffer from `offset` on, each within one unit."""
    while buffer:
        length = _UNIT - offset % _UNIT
        yield offset, buffer[:length]
        offset, buffer = offset + length, buffer[length:]


def _client(connection: socket.socket, export: str) -> NbdClient:
    try:
        return NbdClient(connection, export)
    except QemuError as error:
        raise PointLost(str(error)) from error


def _nodes(number: int) -> tuple[str, str, str]:
    return f"fleece{number}", f"filter{number}", f"access{number}"
