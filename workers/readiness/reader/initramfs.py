"""The names in an initramfs: archives in the format newc, plain and compressed ones, one after the other.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel.
"""

import binascii
import bz2
import lzma
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

import lz4.block
import zstandard

from app.sizes import KIB, MIB

MOST_STORED = 512 * MIB
MOST_UNPACKED = 768 * MIB
CPU_SECONDS = 10.0
_LONGEST_NAME = 4 * KIB
_MEMORY = 256 * MIB
_WINDOW = 128 * MIB
# Zstandard's reader can't limit its output. One byte of input unpacks to 32 KiB at most, so these make 32 MiB.
_ZSTD_STEP = KIB
_LZ4_BLOCK = 8 * MIB
_HEADER = 110
_PLAIN = (b"070701", b"070702")


class DamagedArchive(Exception):
    """Raised when an initramfs can't be read to its end: damaged, too large, or packed in an unknown way."""


def names(stored: Iterable[bytes]) -> Iterator[str]:
    """The names in all archives. Raises DamagedArchive, and the errors of `stored`."""
    data = _Stream(stored)
    budget = _Budget(MOST_UNPACKED)
    try:
        while head := data.peek(6):
            if head[:1] == b"\0":
                data.skip_zeros()
            elif head in _PLAIN:
                yield from _archive(data, budget)
            else:
                yield from _archives(_Stream(budget.spent_by(_unpacked(data, head))), budget)
    except (ValueError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, lz4.block.LZ4BlockError) as error:
        raise DamagedArchive(str(error)) from error


class _Budget:
    """Limits how much is unpacked, and for how long."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._until = time.process_time() + CPU_SECONDS

    def spent_by(self, unpacked: Iterator[bytes]) -> Iterator[bytes]:
        """The same pieces, as long as they are within the limit. Raises DamagedArchive."""
        for piece in unpacked:
            self._left -= len(piece)
            if self._left < 0:
                raise DamagedArchive("it unpacks to too much")
            self.check_time()
            yield piece

    def check_time(self) -> None:
        """Raises DamagedArchive if the time is over."""
        if time.process_time() > self._until:
            raise DamagedArchive("it takes too long to unpack")


class _Stream:
    """Bytes that arrive in pieces, read from the front."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._buffer = b""
        self._place = 0

    def peek(self, length: int) -> bytes:
        """The next bytes, which stay in front: fewer at the end."""
        while len(self._buffer) - self._place < length and (piece := next(self._pieces, None)) is not None:
            self.put_back(b"", piece)
        return self._buffer[self._place : self._place + length]

    def take(self, length: int) -> bytes:
        """The next bytes. Raises EOFError if there are fewer."""
        taken = self.peek(length)
        if len(taken) < length:
            raise EOFError("it ends in the middle")
        self._place += length
        return taken

    def some(self, most: int = MIB) -> bytes:
        """Some of the next bytes. Raises EOFError at the end."""
        self.peek(1)
        piece = self._buffer[self._place : self._place + most]
        if not piece:
            raise EOFError("it ends in the middle")
        self._place += len(piece)
        return piece

    def skip(self, length: int) -> None:
        """Leave out bytes. Raises EOFError if there are fewer."""
        while length > 0:
            self.peek(1)
            skipped = min(length, len(self._buffer) - self._place)
            if not skipped:
                raise EOFError("it ends in the middle")
            self._place += skipped
            length -= skipped

    def skip_zeros(self) -> None:
        """Leave out zeros."""
        while self.peek(1) == b"\0":
            rest = self._buffer[self._place :].lstrip(b"\0")
            self._place = len(self._buffer) - len(rest)

    def put_back(self, front: bytes, end: bytes = b"") -> None:
        """Put bytes in front again, and others behind what is there."""
        self._buffer = front + self._buffer[self._place :] + end
        self._place = 0


def _archives(data: _Stream, budget: _Budget) -> Iterator[str]:
    while data.peek(1):
        if data.peek(1) == b"\0":
            data.skip_zeros()
        else:
            yield from _archive(data, budget)


def _archive(data: _Stream, budget: _Budget) -> Iterator[str]:
    """The names in one archive, up to its trailer."""
    while True:
        budget.check_time()
        head = data.take(_HEADER)
        if head[:6] not in _PLAIN:
            raise DamagedArchive("not an archive")
        size, name_size = _number(head[54:62]), _number(head[94:102])
        if not 1 <= name_size <= _LONGEST_NAME:
            raise DamagedArchive("a name of invalid length")
        name = data.take(name_size)[:-1].decode("utf-8", "replace")
        if name == "TRAILER!!!":
            # What follows the trailer is aligned, or zeros, or another archive.
            return
        data.skip(-(_HEADER + name_size) % 4 + size)
        data.skip(min(-size % 4, len(data.peek(-size % 4))))
        yield name


def _number(digits: bytes) -> int:
    return int.from_bytes(binascii.unhexlify(digits), "big")


def _unpacked(data: _Stream, head: bytes) -> Iterator[bytes]:
    """The content of a compressed archive; the stream continues behind it. Raises DamagedArchive and many others."""
    if head[:2] == b"\x1f\x8b":
        return _inflated(data)
    if head == b"\xfd7zXZ\0":
        return _decompressed(data, lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY))
    if head[:3] == b"\x5d\0\0":
        return _decompressed(data, lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MEMORY))
    if head[:3] == b"BZh":
        return _decompressed(data, bz2.BZ2Decompressor())
    if head[:4] == b"\x28\xb5\x2f\xfd":
        return _by_zstandard(data)
    if head[:4] == b"\x02\x21\x4c\x18":
        return _by_lz4(data)
    raise DamagedArchive("packed in an unknown way")


class _Decompressor(Protocol):
    """What lzma and bz2 have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _decompressed(data: _Stream, way: _Decompressor) -> Iterator[bytes]:
    while not way.eof:
        yield way.decompress(data.some() if way.needs_input else b"", MIB)
    data.put_back(way.unused_data)


def _inflated(data: _Stream) -> Iterator[bytes]:
    way = zlib.decompressobj(zlib.MAX_WBITS | 16)
    while not way.eof:
        yield way.decompress(way.unconsumed_tail or data.some(), MIB)
    data.put_back(way.unused_data)


def _by_zstandard(data: _Stream) -> Iterator[bytes]:
    way = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
    while not way.eof:
        yield way.decompress(data.some(_ZSTD_STEP))
    data.put_back(way.unused_data)


def _by_lz4(data: _Stream) -> Iterator[bytes]:
    """The legacy format of LZ4: blocks of at most 8 MiB, each with its size in front, until something else follows."""
    data.take(4)
    while len(digits := data.peek(4)) == 4:
        size = int.from_bytes(digits, "little")
        if not 0 < size <= lz4_bound(_LZ4_BLOCK):
            return
        data.take(4)
        yield lz4.block.decompress(data.take(size), uncompressed_size=_LZ4_BLOCK)


def lz4_bound(size: int) -> int:
    """The longest block that `size` bytes are packed into (LZ4_compressBound of lz4.h)."""
    return size + size // 255 + 16
