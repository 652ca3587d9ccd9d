"""Disk images for tests: small, built on demand, and damaged on request."""

import os
import random
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from app.lifecycle import DiskFormat
from workers.inspection.inspect import Inspection, inspect

KiB, MiB = 1 << 10, 1 << 20


class QemuFailed(Exception):
    """Raised when qemu-img fails, with what it said."""


def qemu_img(*arguments: str) -> str:
    """Run qemu-img; return its output. Raises QemuFailed."""
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, timeout=120, text=True)
    if done.returncode:
        raise QemuFailed(f"qemu-img {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def qemu_io(image: Path, *commands: str) -> None:
    """Write into a qcow2 as a guest would."""
    asked = [part for command in commands for part in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "qcow2", *asked, str(image)], check=True, capture_output=True, timeout=120)


def inspected(image: Path, declared: DiskFormat) -> Inspection:
    """Inspect a file by its descriptor, as conversions in a folder do. Raises ImageFailed."""
    with image.open("rb") as file:
        return inspect(lambda at, length: os.pread(file.fileno(), length, at), declared, image.stat().st_size)


def raw_disk(path: Path, size: int, runs: Iterable[tuple[int, int]], seed: int = 1) -> Path:
    """A sparse file with bytes that do not compress at each (offset, length)."""
    numbers = random.Random(seed)
    with path.open("wb") as file:
        for offset, length in runs:
            file.seek(offset)
            file.write(numbers.randbytes(length))
        file.truncate(size)
    return path


def dense_disk(path: Path, size: int = 4 * MiB) -> Path:
    """A raw disk that is all data."""
    return raw_disk(path, size, [(0, size)])


def scattered_disk(path: Path, size: int = 24 * MiB) -> Path:
    """A raw disk with data in several places, its ends among them, and zeros between."""
    runs = [(0, 3 * MiB + 4096), (5 * MiB, 64 * KiB), (9 * MiB + 12 * KiB, 2 * MiB), (size - 5 * KiB, 5 * KiB)]
    return raw_disk(path, size, runs)


def make(raw: Path, path: Path, driver: str, **options: str) -> Path:
    """Convert a raw disk to another format."""
    chosen = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    qemu_img("convert", "-f", "raw", "-O", driver, *chosen, str(raw), str(path))
    return path


def patch(path: Path, offset: int, data: bytes) -> Path:
    """Overwrite bytes; a negative offset counts from the end."""
    with path.open("r+b") as file:
        file.seek(offset, 2 if offset < 0 else 0)
        file.write(data)
    return path


def patch_number(path: Path, offset: int, layout: str, number: int) -> Path:
    """Overwrite a number, given as struct lays it out (`>Q`, `<I`)."""
    return patch(path, offset, struct.pack(layout, number))


def edit_descriptor(path: Path, before: str, after: str | bytes) -> Path:
    """Replace text in the descriptor of a VMDK; what follows it moves, zeros fill up."""
    new = after if isinstance(after, bytes) else after.encode()
    with path.open("r+b") as file:
        file.seek(512)
        raw = file.read(20 * 512)
        text = raw.split(b"\0", 1)[0]
        assert before.encode() in text
        file.seek(512)
        file.write(text.replace(before.encode(), new).ljust(20 * 512, b"\0"))
    return path


def edit_vhd_footer(path: Path, *edits: tuple[int, bytes], at: int = -512) -> Path:
    """Overwrite fields of a VHD's footer (its beginning counts from the end if negative) and fix its checksum."""
    with path.open("r+b") as file:
        file.seek(at, 2 if at < 0 else 0)
        place = file.tell()
        footer = bytearray(file.read(512))
        for offset, data in edits:
            footer[offset : offset + len(data)] = data
        footer[64:68] = bytes(4)
        footer[64:68] = (~sum(footer) & 0xFFFFFFFF).to_bytes(4, "big")
        file.seek(place)
        file.write(footer)
    return path


def edit_vhdx_regions(path: Path, *edits: tuple[int, bytes]) -> Path:
    """Overwrite fields of both region tables of a VHDX, and fix their checksums ([MS-VHDX] 2.2.3)."""
    with path.open("r+b") as file:
        for place in (192 * KiB, 256 * KiB):
            file.seek(place)
            table = bytearray(file.read(64 * KiB))
            for offset, data in edits:
                table[offset : offset + len(data)] = data
            _seal(file, place, table)
    return path


def leave_log(path: Path) -> Path:
    """Make a VHDX as its writer leaves it in a crash: headers that name a log with an entry ([MS-VHDX] 2.2.2, 2.3)."""
    guid = bytes(range(16))
    with path.open("r+b") as file:
        for place in (64 * KiB, 128 * KiB):
            file.seek(place)
            header = bytearray(file.read(4 * KiB))
            header[48:64] = guid
            _seal(file, place, header)
        (log_at,) = struct.unpack_from("<Q", header, 72)
        end = path.stat().st_size
        entry = bytearray(
            struct.pack("<4sIIIQII16sQQ", b"loge", 0, 4096, 0, 1, 0, 0, guid, end, end).ljust(4096, b"\0")
        )
        _seal(file, log_at, entry)
    return path


def _seal(file: BinaryIO, place: int, block: bytearray) -> None:
    """Write a block with its CRC-32C at byte 4."""
    block[4:8] = bytes(4)
    register = 0xFFFFFFFF
    for byte in block:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    block[4:8] = struct.pack("<I", register ^ 0xFFFFFFFF)
    file.seek(place)
    file.write(block)
