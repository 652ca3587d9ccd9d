"""How much a conversion may use: of disk, memory, time. Sizes are bytes, times are seconds."""

from dataclasses import dataclass, field

from app.catalog.outcome import Way

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30
TiB = 1 << 40

MAX_VIRTUAL_SIZE = 16 * TiB


@dataclass(frozen=True, slots=True)
class PartRules:
    """What a store takes, and what suits us; sizes are bytes.

    Every part but the last has at least `least`, none more than `most`, and there are at most `count`. `copied` is
    how long a part becomes that the store copies itself, `sent` one that goes through a worker; `kept` is the
    longest that a worker holds in memory. Runs of data that are no further apart than `gap` are copied as one.
    """

    least: int = 5 * MiB
    most: int = 5 * GiB
    count: int = 10_000
    copied: int = 128 * MiB
    sent: int = 8 * MiB
    kept: int = 16 * MiB
    gap: int = 1 * MiB

    def sent_for(self, size: int, parts: int, step: int) -> int:
        """How long a part may become, so that `size` bytes that come in steps need no more than `parts` of them."""
        return max(self.sent, self.least + step, -(-size // max(1, parts)) + step)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one process may use: address space, CPU time, wall-clock time, length of a file it writes."""

    memory: int
    cpu_seconds: int
    wall_seconds: float
    file_size: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What conversions may use; the defaults are those of an operator who has said nothing.

    `ways` are those that may be taken; COPY always may. `max_stored_size` bounds the clusters in use of a result: it
    is what a project has room for; None where nobody has said so. `require_bubblewrap`: without it, no qemu is run.
    `unprivileged_id` is the user and group that
    qemu-img runs as when we are root. `patience` is the wall-clock time of the shortest conversion, to which a second
    is added for every `slowest_rate` bytes. `compress`: clusters that are written anew in a store are compressed;
    `parts` are the rules of that store. More data than `split_bytes` is streamed by several workers; None: by one in
    any case.
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
    slowest_rate: int = 4 * MiB
    compress: bool = False
    split_bytes: int | None = None
    parts: PartRules = field(default_factory=PartRules)

    def quota_below(self, virtual_size: int) -> bool:
        """Whether a copy of a disk that grows too long has run into the project's quota, and not beyond its size."""
        return self.max_stored_size is not None and self.max_stored_size < virtual_size

    def for_info(self) -> Bounds:
        """To read a header."""
        return Bounds(memory=1 * GiB, cpu_seconds=10, wall_seconds=self.inspect_seconds)

    def for_tables(self, file_size: int, virtual_size: int) -> Bounds:
        """To read the tables of a file (`map`, `check`): as long as it is large, whatever the size of the disk is."""
        seconds = file_size // (64 * MiB)
        return Bounds(
            memory=1 * GiB + max(file_size, virtual_size) // (8 * KiB),
            cpu_seconds=60 + seconds,
            wall_seconds=2 * self.inspect_seconds + seconds,
        )

    def for_copy(self, source_size: int, data_size: int, virtual_size: int) -> Bounds:
        """To read a source and write the data in it anew, `data_size` bytes, however large the disk is.

        A qcow2 can't need more room than the disk and its tables.
        """
        seconds = (source_size + data_size) // self.slowest_rate
        most = virtual_size if self.max_stored_size is None else min(virtual_size, self.max_stored_size)
        return Bounds(
            memory=4 * GiB + (source_size + virtual_size) // (8 * KiB),
            cpu_seconds=int(self.patience) + seconds,
            wall_seconds=self.patience + seconds,
            # A file may be longer than the clusters in use. What is stored is compared with the quota at the end.
            file_size=most + most // 1024 + 16 * MiB,
        )
