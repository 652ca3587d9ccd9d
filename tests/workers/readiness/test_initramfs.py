"""The names in an initramfs, however it is packed, and what happens if it is damaged or a bomb."""

import bz2
import gzip
import itertools
import lzma
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Protocol

import lz4.block
import pytest
import zstandard

from tests.support.tiny_linux import cpio
from workers.readiness.reader import initramfs
from workers.readiness.reader.initramfs import DamagedArchive, names

MIB = 1 << 20
FIRST = cpio([("kernel/x86/microcode/GenuineIntel.bin", 0o100644, b"\0" * 5001)])
SECOND = cpio([("init", 0o100755, b"#!"), ("lib/modules/6.1/virtio_blk.ko", 0o100644, b"x" * 3)])
NAMES = ["init", "lib/modules/6.1/virtio_blk.ko"]


def lz4_legacy(data: bytes, block: int = 8 * MIB) -> bytes:
    pieces = [data[place : place + block] for place in range(0, len(data), block)]
    packed = [lz4.block.compress(piece, store_size=False) for piece in pieces]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(piece)) + piece for piece in packed)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lz4_legacy,
    "lz4-blocks": lambda data: lz4_legacy(data, 100),
}


def read(data: bytes, step: int = MIB) -> list[str]:
    return list(names(data[place : place + step] for place in range(0, len(data), step)))


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("step", [1, 7, MIB])
def test_an_archive_has_its_names_whatever_packs_it(packer: str, step: int) -> None:
    assert read(PACKERS[packer](SECOND), step) == NAMES


@pytest.mark.parametrize(("first", "second"), list(itertools.product(PACKERS, PACKERS)))
def test_archives_follow_one_another_with_zeros_between_or_without(first: str, second: str) -> None:
    microcode = ["kernel/x86/microcode/GenuineIntel.bin"]
    # Without zeros, a block of LZ4 could follow: the kernel takes what is there for the size of one.
    for padding in (512,) if first.startswith("lz4") else (0, 512):
        data = PACKERS[first](FIRST) + bytes(padding) + PACKERS[second](SECOND) + bytes(padding)
        assert read(data) == [*microcode, *NAMES]


def test_one_compressed_part_may_hold_several_archives() -> None:
    assert read(gzip.compress(SECOND + bytes(512) + SECOND)) == NAMES * 2


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("keep", [0.3, 0.99])
def test_an_archive_that_ends_early_is_damaged(packer: str, keep: float) -> None:
    data = PACKERS[packer](SECOND)
    with pytest.raises(DamagedArchive):
        read(data[: int(len(data) * keep)])


@pytest.mark.parametrize(
    "data",
    [
        b"\x89LZO\0\r\n\x1a\n" + bytes(100),
        b"garbage",
        gzip.compress(b"no archive at all" * 20),
        SECOND[:54] + b"-0000001" + SECOND[62:],
        SECOND[:54] + b" 1_0 000" + SECOND[62:],
        SECOND[:54] + b"FFFFFFFF" + SECOND[62:],
        SECOND[:94] + b"FFFFFFFF" + SECOND[102:],
        SECOND[:94] + b"00000000" + SECOND[102:],
        b"\x02\x21\x4c\x18" + struct.pack("<I", 100) + bytes(100),
        b"\x28\xb5\x2f\xfd" + b"\xff" * 100,
        b"\xfd7zXZ\0" + b"\xff" * 100,
    ],
)
def test_what_is_no_archive_is_damaged(data: bytes) -> None:
    with pytest.raises(DamagedArchive):
        read(data)


def test_an_empty_initramfs_has_no_names() -> None:
    assert read(b"") == []
    assert read(bytes(4096)) == []


class Compressor(Protocol):
    """What the compressors have in common."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def zeros(count: int, compressor: Compressor) -> bytes:
    """That many MiB of zeros, which follow one another as padding does."""
    return b"".join(compressor.compress(bytes(MIB)) for _ in range(count)) + compressor.flush()


BOMBS: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: zeros(24, zlib.compressobj(1, wbits=31)),
    "zstd": lambda: zeros(64, zstandard.ZstdCompressor(level=1).compressobj()),
    "xz": lambda: zeros(24, lzma.LZMACompressor(preset=0)),
    "bzip2": lambda: zeros(24, bz2.BZ2Compressor(1)),
    "lz4": lambda: lz4_legacy(bytes(8 * MIB)) + lz4_legacy(bytes(8 * MIB))[4:] * 3,
}


@pytest.mark.parametrize("packer", BOMBS)
def test_a_bomb_is_refused_and_takes_little_memory(packer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs, "MOST_UNPACKED", 16 * MIB)
    bomb = BOMBS[packer]()
    tracemalloc.start()
    try:
        with pytest.raises(DamagedArchive, match="too much"):
            read(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * MIB


def test_what_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs, "CPU_SECONDS", 0.0)
    with pytest.raises(DamagedArchive, match="too long"):
        read(gzip.compress(SECOND))


def test_names_that_come_before_the_damage_are_read() -> None:
    found = names([SECOND[:200]])
    assert next(found) == "init"
    with pytest.raises(DamagedArchive):
        next(found)
