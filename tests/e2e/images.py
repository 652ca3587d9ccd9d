"""Real disk images, written by qemu-img: every format and variant that is taken in, and hostile ones."""

import gzip
import json
import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KiB, MiB = 1 << 10, 1 << 20

# QEMU's names of the formats that it does not call as we do.
_DRIVERS = {"VHD": "vpc"}


@dataclass(frozen=True, slots=True)
class Disk:
    """What is on a raw disk: bytes that do not compress at each (offset, length), zeros elsewhere."""

    name: str
    size: int
    runs: tuple[tuple[int, int], ...]

    def write(self, folder: Path) -> Path:
        """The disk as a sparse file; made once per folder."""
        path = folder / f"{self.name}.img"
        if not path.exists():
            numbers = random.Random(self.size)
            with path.open("wb") as file:
                for offset, length in self.runs:
                    file.seek(offset)
                    file.write(numbers.randbytes(length))
                file.truncate(self.size)
        return path


DENSE = Disk("dense", 20 * MiB, ((0, 20 * MiB),))
# A few percent of holes, as a dense disk has them: what is left is still worth keeping where it is.
NEARLY_DENSE = Disk("nearly-dense", 40 * MiB, ((0, 17 * MiB), (18 * MiB + 4 * KiB, 20 * MiB)))
HOLEY = Disk("holey", 96 * MiB, ((0, 6 * MiB + 4 * KiB), (20 * MiB, 64 * KiB), (60 * MiB, 9 * MiB), (95 * MiB, MiB)))
LARGE = Disk("large", 96 * MiB, ((0, 90 * MiB),))


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to write a disk image: our name of the format, and the arguments of qemu-img."""

    name: str
    format: str
    disk: Disk = HOLEY
    options: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def driver(self) -> str:
        return driver_of(self.format)

    def build(self, folder: Path) -> Path:
        """The image, as a file with the ending of its format; made once per folder."""
        path = folder / f"{self.name}.{self.format.lower()}"
        if not path.exists():
            convert(self.disk.write(folder), path, self.driver, *self.flags, options=self.options)
        return path


def _qcow2_of_every_cluster_size() -> list[Variant]:
    sizes = [512 << power for power in range(13)]
    return [Variant(f"qcow2-clusters-of-{size}", "QCOW2", DENSE, (f"cluster_size={size}",)) for size in sizes]


VARIANTS = (
    Variant("qcow2-version-2", "QCOW2", options=("compat=0.10",)),
    Variant("qcow2-version-3", "QCOW2", LARGE, ("compat=1.1",)),
    Variant("qcow2-zlib", "QCOW2", options=("compression_type=zlib",), flags=("-c",)),
    Variant("qcow2-zstd", "QCOW2", options=("compression_type=zstd",), flags=("-c",)),
    *_qcow2_of_every_cluster_size(),
    Variant("raw-dense", "RAW", DENSE),
    Variant("raw-nearly-dense", "RAW", NEARLY_DENSE),
    Variant("raw-holey", "RAW", HOLEY),
    Variant("vmdk-sparse", "VMDK", options=("subformat=monolithicSparse",)),
    Variant("vmdk-sparse-large", "VMDK", LARGE, ("subformat=monolithicSparse",)),
    Variant("vmdk-stream", "VMDK", options=("subformat=streamOptimized",)),
    Variant("vhd-dynamic", "VHD", options=("subformat=dynamic",)),
    Variant("vhd-dynamic-exact", "VHD", options=("subformat=dynamic", "force_size=on")),
    Variant("vhd-fixed", "VHD", DENSE, ("subformat=fixed",)),
    Variant("vhd-fixed-exact", "VHD", NEARLY_DENSE, ("subformat=fixed", "force_size=on")),
    Variant("vhd-fixed-holey", "VHD", options=("subformat=fixed",)),
    Variant("vhdx-dynamic", "VHDX", options=("subformat=dynamic",)),
    Variant("vhdx-fixed", "VHDX", DENSE, ("subformat=fixed",)),
)


def slow_to_copy(folder: Path, size: int = 64 * MiB) -> Path:
    """A streamOptimized VMDK of `size` bytes of data. Copying it takes qemu-img a while: they do compress."""
    path = folder / "slow.vmdk"
    if not path.exists():
        raw = folder / "slow.img"
        digits = random.Random(size).randbytes(4 * MiB).hex().encode()
        with raw.open("wb") as file:
            for _ in range(size // len(digits)):
                file.write(digits)
        convert(raw, path, "vmdk", options=("subformat=streamOptimized",))
    return path


def gzipped(path: Path, image: Path) -> Path:
    """An image in a gzip file."""
    path.write_bytes(gzip.compress(image.read_bytes(), compresslevel=1))
    return path


def with_backing_file(path: Path, backing: str = "/etc/passwd") -> Path:
    """A qcow2 that shows the bytes of another file of the machine that opens it."""
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "raw", str(path), "1M")
    return path


def vmdk_descriptor(path: Path, image: Path) -> Path:
    """A VMDK that is a text which names another file."""
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", str(image), str(path))
    return path


def differencing_vhd(path: Path, image: Path) -> Path:
    """A VHD that holds what differs from a parent (VHD specification, `Disk Type` 4)."""
    convert(image, path, "vpc")
    with path.open("r+b") as file:
        for place in (0, path.stat().st_size - 512):
            file.seek(place)
            footer = bytearray(file.read(512))
            footer[60:64] = (4).to_bytes(4, "big")
            footer[64:68] = bytes(4)
            footer[64:68] = (~sum(footer) & 0xFFFFFFFF).to_bytes(4, "big")
            file.seek(place)
            file.write(footer)
    return path


def cut(path: Path, image: Path, size: int) -> Path:
    """The first `size` bytes of an image."""
    path.write_bytes(image.read_bytes()[:size])
    return path


def empty_qcow2(path: Path, size: str) -> Path:
    """A qcow2 of a disk without data."""
    qemu_img("create", "-q", "-f", "qcow2", str(path), size)
    return path


def driver_of(format_: str) -> str:
    """QEMU's name of a format."""
    return _DRIVERS.get(format_, format_.lower())


def convert(raw: Path, path: Path, driver: str, *flags: str, options: Sequence[str] = ()) -> Path:
    """Write a raw disk in another format."""
    chosen = [word for option in options for word in ("-o", option)]
    qemu_img("convert", "-f", "raw", "-O", driver, *flags, *chosen, str(raw), str(path))
    return path


def virtual_size(path: Path, driver: str) -> int:
    """The size of the disk in an image, in bytes, as QEMU sees it."""
    return int(_json("info", "--output=json", "-f", driver, str(path))["virtual-size"])


def check_sound(path: Path) -> dict[str, Any]:
    """What `qemu-img check` says of a qcow2; fails when it finds errors or leaks."""
    report = _json("check", "--output=json", "-f", "qcow2", str(path))
    found = {key: value for key, value in report.items() if key in ("corruptions", "leaks", "check-errors") and value}
    assert found == {}, report
    return report


def check_same_disk(source: Path, driver: str, result: Path) -> None:
    """Fails unless a qcow2 holds the same disk as its source, of the same size."""
    assert virtual_size(result, "qcow2") == virtual_size(source, driver)
    qemu_img("compare", "-f", driver, "-F", "qcow2", str(source), str(result))


def qemu_img(*arguments: str) -> str:
    """Run qemu-img; returns its output. Fails with what it complained of."""
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, timeout=120, text=True)
    assert done.returncode == 0, f"qemu-img {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def _json(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(qemu_img(*arguments))
    return found
