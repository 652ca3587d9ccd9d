"""Takes, reads and releases points in time of volumes, with or without a running server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from workers.hypervisor import live_points, resting_points
from workers.hypervisor.agent import frozen
from workers.hypervisor.files import HostFiles, VolumeFiles
from workers.hypervisor.live_points import LiveReader
from workers.hypervisor.locks import is_locked, released
from workers.hypervisor.monitor import NotRunning, connected
from workers.hypervisor.port import HypervisorUnavailable, Point, PointExists, PointLost, PointReader, VolumeMissing
from workers.hypervisor.records import PointRecord, Use, new_export, point_of, use_of
from workers.hypervisor.resting_points import RestingReader
from workers.hypervisor.settings import HostSettings
from workers.hypervisor.volumes import describe

# Each call of a guest agent; freezing took up to 0.13 s under emulation.
_AGENT_SECONDS = 5.0
# How long the locks of a QEMU may outlive its connections.
_BRIEF = 2.0


async def take(host: HostFiles, settings: HostSettings, volume: VolumeFiles) -> Point:
    """Take a point of a volume, whose lock the caller holds.

    Raises VolumeMissing, PointExists, HypervisorError, HypervisorUnavailable, OSError.
    """
    size = describe(volume).size
    record = point_of(volume)
    if record is not None:
        if record.taken:
            raise PointExists(f"volume {volume.id} has a point")
        await release(host, settings, volume)
    if is_locked(volume.used):
        try:
            return await _take_live(host, settings, volume, size, use_of(volume))
        except NotRunning as error:
            # The guest may have shut down at this moment.
            if not await released(volume.used, _BRIEF):
                raise HypervisorUnavailable(f"the server of volume {volume.id} does not answer: {error}") from error
    PointRecord(size, new_export(), taken=True).write(volume)
    return Point(volume.id, size, quiet=True)


async def _take_live(host: HostFiles, settings: HostSettings, volume: VolumeFiles, size: int, use: Use) -> Point:
    server, export = host.server(use.server), new_export()
    # Written first: a process that finds it undoes what was done.
    PointRecord(size, export, use.server, use.number).write(volume)
    try:
        host.make_fleece(volume, size)
        async with connected(server, settings.answer_seconds) as monitor:
            freezing = frozen(server, monitor, _AGENT_SECONDS)
            quiet = await live_points.take(monitor, server, volume, use.number, export, freezing)
    except BaseException:
        await release(host, settings, volume)
        raise
    PointRecord(size, export, use.server, use.number, quiet, taken=True).write(volume)
    return Point(volume.id, size, quiet)


async def release(host: HostFiles, settings: HostSettings, volume: VolumeFiles) -> None:
    """Discard the point of a volume, whose lock the caller holds; does nothing if there is none.

    Raises HypervisorError, HypervisorUnavailable, OSError.
    """
    record = point_of(volume)
    if record is not None and record.server is not None and is_locked(volume.used):
        use = use_of(volume)
        # Another server, or the same one as another disk, has nothing of it.
        if use == Use(record.server, record.number):
            await _drop(host, settings, volume, use)
    volume.fleece.unlink(missing_ok=True)
    await asyncio.to_thread(resting_points.remove_leftovers, volume)
    volume.point.unlink(missing_ok=True)


async def _drop(host: HostFiles, settings: HostSettings, volume: VolumeFiles, use: Use) -> None:
    try:
        async with connected(host.server(use.server), settings.answer_seconds) as monitor:
            await live_points.drop(monitor, use.number)
    except NotRunning as error:
        # With QEMU, the point is gone.
        if not await released(volume.used, _BRIEF):
            raise HypervisorUnavailable(f"the server of volume {volume.id} does not answer: {error}") from error


@asynccontextmanager
async def reading(host: HostFiles, settings: HostSettings, point: Point) -> AsyncIterator[PointReader]:
    """A reader of a point, during the block. Raises PointLost."""
    volume = host.volume(point.volume)
    opening = asyncio.create_task(asyncio.to_thread(_open, host, settings, volume))
    try:
        reader = await asyncio.shield(opening)
    except asyncio.CancelledError:
        # The thread continues, and what it opens has to be closed.
        with suppress(PointLost, OSError):
            (await opening).close()
        raise
    try:
        yield reader
    finally:
        await asyncio.to_thread(reader.close)


def _open(host: HostFiles, settings: HostSettings, volume: VolumeFiles) -> LiveReader | RestingReader:
    record = point_of(volume)
    if record is None or not record.taken:
        raise PointLost(f"volume {volume.id} has no point")
    try:
        described = describe(volume)
    except VolumeMissing as error:
        raise PointLost(str(error)) from error
    if record.server is None:
        return RestingReader(volume, described.base, described.size, settings.limits)
    server = host.server(record.server)
    reader = LiveReader(server, volume, record.export, described.base_size, settings.answer_seconds)
    if reader.size != described.size:
        reader.close()
        raise PointLost(f"server {record.server} serves {reader.size} bytes of volume {volume.id}")
    return reader
