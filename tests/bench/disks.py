"""Disk images to measure with: written once, block by block, straight into their format."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
_RUN = 16 * MIB
_CLUSTER = 64 * 1024
_STEP_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Disk:
    """A kind of image: QEMU's driver and options, the gateway's name of the format, and how full it is.

    A disk of `spread` 4 is four times as large as its data, which is in runs of 16 MiB. Half of the data
    of one that is `compressed` can be compressed. One that is nearly empty is as large as if it held all the
    data, but has `kept` bytes of it, in four places. Its name says how large it is where the data would be 1 GiB.
    """

    name: str
    driver: str
    format: str
    suffix: str
    options: Mapping[str, str] = field(default_factory=dict)
    spread: int = 1
    compressed: bool = False
    kept: int | None = None

    def virtual_size(self, data: int) -> int:
        """Bytes of the disk that holds `data` bytes."""
        return data * self.spread

    def rounds(self, wanted: int) -> int:
        """How often it is measured: once, where qemu-img would go through all of a nearly empty disk for minutes."""
        return wanted if self.kept is None else 1


_ALL = (
    Disk("sparse VMDK", "vmdk", "VMDK", "vmdk", {"subformat": "monolithicSparse"}, spread=4),
    Disk("sparse qcow2", "qcow2", "QCOW2", "qcow2", spread=4),
    Disk("dense raw", "raw", "RAW", "raw"),
    Disk("dense fixed VHD", "vpc", "VHD", "vhd", {"subformat": "fixed", "force_size": "on"}),
    Disk("compressed qcow2", "qcow2", "QCOW2", "qcow2", spread=4, compressed=True),
    Disk("dynamic VHDX", "vhdx", "VHDX", "vhdx", {"subformat": "dynamic"}, spread=4),
    Disk("fixed VHDX", "vhdx", "VHDX", "vhdx", {"subformat": "fixed"}),
    Disk("dynamic VHD", "vpc", "VHD", "vhd", {"subformat": "dynamic", "force_size": "on"}, spread=4),
    Disk("streamOptimized VMDK", "vmdk", "VMDK", "vmdk", {"subformat": "streamOptimized"}, spread=4, compressed=True),
    Disk("raw with holes", "raw", "RAW", "raw", spread=2),
    Disk("VHDX of 127 GiB with 4 MiB", "vhdx", "VHDX", "vhdx", {"block_size": "32M"}, spread=127, kept=4 * MIB),
    Disk("VHDX of 2 TiB with 64 KiB", "vhdx", "VHDX", "vhdx", {"block_size": "32M"}, spread=2048, kept=64 << 10),
)
DISKS = {disk.name: disk for disk in _ALL}


def write_disk(disk: Disk, folder: Path, data: int) -> Path:
    """An image of that kind with `data` bytes in it, random where they are not compressed; on the disk already."""
    raw = folder / "disk.raw"
    path = folder / f"{disk.name.replace(' ', '-')}.{disk.suffix}"
    _write_raw(raw, disk, data)
    if disk.driver == "raw":
        raw.rename(path)
    else:
        options = [f"{name}={value}" for name, value in disk.options.items()]
        chosen = ["-o", ",".join(options)] if options else []
        compress = ["-c"] if disk.compressed and disk.driver == "qcow2" else []
        run_qemu_img("convert", "-W", "-m", "16", "-f", "raw", "-O", disk.driver, *compress, *chosen, raw, path)
        raw.unlink()
    flush(path)
    return path


def write_large_vmdk(path: Path, data: int) -> None:
    """Write a sparse VMDK of `data` bytes straight to `path`, without a raw image: runs of one byte each.

    Raises CalledProcessError.
    """
    disk = DISKS["sparse VMDK"]
    chosen = ",".join(f"{name}={value}" for name, value in disk.options.items())
    run_qemu_img("create", "-f", disk.driver, "-o", chosen, path, str(disk.virtual_size(data)))
    writes = [
        f"write -q -P {1 + number % 255} {start * disk.spread} {min(_RUN, data - start)}\n"
        for number, start in enumerate(range(0, data, _RUN))
    ]
    subprocess.run(
        ["qemu-io", "-f", disk.driver, "-t", "unsafe", path],
        input="".join(writes).encode(),
        check=True,
        capture_output=True,
        timeout=_STEP_SECONDS,
    )
    flush(path)


def flush(path: Path) -> None:
    """Wait until a file is on the disk. Raises OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def run_qemu_img(*arguments: str | Path) -> None:
    """Run qemu-img. Raises CalledProcessError."""
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, timeout=_STEP_SECONDS)


def _write_raw(path: Path, disk: Disk, data: int) -> None:
    size = disk.virtual_size(data)
    data = min(data, disk.kept or data)
    run = min(_RUN, data) if disk.kept is None else data // 4
    with path.open("wb", buffering=0) as file:
        file.truncate(size)
        blocks = _blocks(run, compressible=disk.compressed)
        for start in range(0, data, run):
            file.seek(start * (size // data))
            file.write(next(blocks)[: min(run, data - start)])


def _blocks(size: int, *, compressible: bool) -> Iterator[memoryview]:
    """Blocks of random bytes, drawn once and begun elsewhere each time. Half of a compressible cluster repeats."""
    if compressible:
        half = _CLUSTER // 2
        drawn = b"".join(os.urandom(half) + bytes([1]) * half for _ in range(-(-2 * size // _CLUSTER)))
        step = _CLUSTER
    else:
        drawn, step = os.urandom(2 * size), 4096
    start = 0
    while True:
        yield memoryview(drawn)[start : start + size]
        start = (start + 7 * step) % size
