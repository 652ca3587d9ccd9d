"""Limits of a conversion on disk space, memory and time. Sizes are bytes, times are seconds."""

from dataclasses import dataclass, field

from app.catalog.outcome import Way
from app.settings import Settings
from app.sizes import GIB, KIB, MIB, TIB

MAX_VIRTUAL_SIZE = 16 * TIB


@dataclass(frozen=True, slots=True)
class PartRules:
    """The store's rules for the parts of a multipart upload, and our choices within them; sizes are bytes.

    Every part except the last has at least `least` bytes, none has more than `most`, and there are at most `count`.
    `copied` is the size of a part that the store copies itself, `sent` of one that a worker sends; `kept` is the
    largest that a worker holds in memory. Runs of data at most `gap` apart are copied as one.
    """

    least: int = 5 * MIB
    most: int = 5 * GIB
    count: int = 10_000
    copied: int = 128 * MIB
    sent: int = 8 * MIB
    kept: int = 16 * MIB
    gap: int = 1 * MIB

    def sent_for(self, size: int, parts: int, step: int) -> int:
        """The size of parts with which `size` bytes, added in steps of `step` bytes, need at most `parts` parts."""
        return max(self.sent, self.least + step, -(-size // max(1, parts)) + step)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one process: address space, CPU time, wall-clock time, size of a file it writes."""

    memory: int
    cpu_seconds: int
    wall_seconds: float
    file_size: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of conversions; the defaults apply if the operator sets nothing.

    `ways` are the ways that are allowed; COPY always is. `max_stored_size` limits the clusters in use of a result: the
    room that its project has; None means no limit. `require_bubblewrap`: do not run qemu without bubblewrap.
    `unprivileged_id` is the user and group that qemu-img runs as if the worker is root. `patience` is the wall-clock
    time of the shortest conversion; one second is added for every `slowest_rate` bytes. `compress`: whether newly
    written clusters in a store are compressed; `parts` are the rules of that store. More data than `split_bytes` is
    streamed by several workers; None means always by one.
    """

    ways: frozenset[Way] = frozenset(Way)
    max_virtual_size: int = MAX_VIRTUAL_SIZE
    max_stored_size: int | None = None
    max_extents: int = 1_000_000
    use_bubblewrap: bool = True
    require_bubblewrap: bool = False
    unprivileged_id: int = 65534
    qemu_img: str = "qemu-img"
    qemu_nbd: str = "qemu-nbd"
    inspect_seconds: float = 30.0
    patience: float = 300.0
    slowest_rate: int = 4 * MIB
    compress: bool = False
    split_bytes: int | None = None
    parts: PartRules = field(default_factory=PartRules)

    def quota_below(self, virtual_size: int) -> bool:
        """Whether the project's quota, not the size of the disk, limits the size of a copy."""
        return self.max_stored_size is not None and self.max_stored_size < virtual_size

    def for_info(self) -> Bounds:
        """Bounds for reading a header."""
        return Bounds(memory=1 * GIB, cpu_seconds=10, wall_seconds=self.inspect_seconds)

    def for_tables(self, file_size: int, virtual_size: int) -> Bounds:
        """Bounds for reading the tables of a file (`map`, `check`): time by the size of the file, not of the disk."""
        seconds = file_size // (64 * MIB)
        return Bounds(
            memory=1 * GIB + max(file_size, virtual_size) // (8 * KIB),
            cpu_seconds=60 + seconds,
            wall_seconds=2 * self.inspect_seconds + seconds,
        )

    def for_copy(self, source_size: int, data_size: int, virtual_size: int) -> Bounds:
        """Bounds for reading a source and writing its `data_size` bytes of data: time does not depend on the disk size.

        A qcow2 never needs more space than the disk and its tables.
        """
        seconds = (source_size + data_size) // self.slowest_rate
        most = virtual_size if self.max_stored_size is None else min(virtual_size, self.max_stored_size)
        return Bounds(
            memory=4 * GIB + (source_size + virtual_size) // (8 * KIB),
            cpu_seconds=int(self.patience) + seconds,
            wall_seconds=self.patience + seconds,
            # A file may be longer than its clusters in use. The stored size is compared with the quota at the end.
            file_size=most + most // 1024 + 16 * MIB,
        )


def limits_of(settings: Settings) -> Limits:
    """The limits that an operator has set."""
    return Limits(
        max_virtual_size=settings.virtual_size_limit,
        require_bubblewrap=settings.require_confinement,
        compress=settings.compression == "zstd",
        split_bytes=settings.split_bytes,
    )
