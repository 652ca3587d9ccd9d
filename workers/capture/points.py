"""Reads a point in time: first what it consists of, then its data."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from workers.capture.task import CaptureTask, Tally
from workers.hypervisor.port import PointReader
from workers.qcow2.extents import Extents
from workers.qcow2.packing import Disk


@dataclass(frozen=True, slots=True)
class PointMap:
    """What a point of `size` bytes consists of. Everything else reads as zeros.

    `base` are the runs whose bytes are the base's, `data` all others; offsets are those of the disk.
    """

    size: int
    base: Extents = field(default_factory=Extents)
    data: Extents = field(default_factory=Extents)


def map_point(reader: PointReader, most: int, tick: Callable[[], None]) -> PointMap:
    """Ask once for all extents of a point. Beyond `most` extents, everything counts as data.

    `tick` is called repeatedly and may raise. Raises PointLost.
    """
    found = PointMap(reader.size)
    place = 0
    while place < found.size:
        tick()
        if len(found.base) + len(found.data) >= most:
            found.data.add(place, found.size - place, place)
            break
        for extent in reader.extents(place, found.size - place):
            if extent.data:
                runs = found.base if extent.base else found.data
                runs.add(extent.offset, extent.length, extent.offset)
            place = extent.offset + extent.length
    return found


def disk_of(task: CaptureTask, extents: Extents, tally: Tally) -> Disk:
    """The disk of a point, with the `extents` to read. Several threads may read it.

    Reading raises PointLost and Cancelled.
    """
    reader, steps, lock = task.reader, task.steps, threading.Lock()

    def read_into(offset: int, buffer: memoryview) -> None:
        with lock:
            steps.check()
            reader.read_into(offset, buffer)
        tally.add(len(buffer))

    return Disk(reader.size, extents, read_into)
