"""Reads the data of a source's disk for packing: from the store if its place is known, otherwise through qemu."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue

from app.sizes import GIB
from workers.convert.planning import Subject
from workers.inspection.vmdk import VmdkFacts
from workers.qcow2.extents import Extents
from workers.qcow2.packing import Disk
from workers.qemu.confinement import Sandbox
from workers.qemu.nbd import export
from workers.qemu.nbd_client import ZERO, NbdClient
from workers.store.source import StoredSource
from workers.store.vmdk_stream import VmdkStream, open_stream

CONNECTIONS = 2
# The bytes of the disk that one query for data covers.
_WINDOW = GIB


@contextmanager
def reading(sandbox: Sandbox, source: StoredSource, subject: Subject, extents: Extents | None) -> Iterator[Disk]:
    """The disk in a source, during the block. Without `extents`, qemu reads it, on two connections.

    A streamOptimized VMDK is read without qemu, which would read it grain by grain. Raises ImageFailed, QemuError,
    Cancelled, and the error of the source.
    """
    size, most = subject.virtual_size, sandbox.limits.max_extents
    facts = subject.inspection.facts
    if extents is not None:
        yield Disk(size, extents, source.read_into)
        return
    streamed = open_stream(source, size) if isinstance(facts, VmdkFacts) and facts.streamed else None
    if streamed is not None:
        with streamed:
            yield Disk(size, data_extents(streamed, size, most), streamed.read_into)
        return
    bounds = sandbox.limits.for_copy(subject.source_size, subject.data_size, size)
    with export(sandbox, subject.image, bounds, CONNECTIONS) as running, ExitStack() as connections:
        clients = [connections.enter_context(running.connect()) for _ in range(CONNECTIONS)]
        found = data_extents(clients[0], size, most)
        idle: SimpleQueue[NbdClient] = SimpleQueue()
        for client in clients:
            idle.put(client)

        def read_into(offset: int, buffer: memoryview) -> None:
            client = idle.get()
            try:
                client.read_into(offset, buffer)
            finally:
                idle.put(client)

        yield Disk(size, found, read_into)


def data_extents(client: NbdClient | VmdkStream, size: int, max_extents: int) -> Extents:
    """Where the disk has data, according to its block status; offsets are those of the disk.

    Beyond `max_extents` extents, everything counts as data.
    """
    found = Extents()
    for begin in range(0, size, _WINDOW):
        length = min(_WINDOW, size - begin)
        if len(found) >= max_extents:
            found.add(begin, length, begin)
            continue
        place = begin
        for extent, flags in client.block_status(begin, length):
            if not flags & ZERO:
                found.add(place, extent, place)
            place += extent
    return found
