"""Registry hives of Windows, in the format regf 1.3.

Source: "Windows NT Registry File (REGF) format specification" of libregf.
"""

import struct
from collections.abc import Mapping

# Keys are mappings, REG_DWORD values are numbers, REG_SZ values are texts.
Key = Mapping[str, "int | str | Key"]

_NONE = 0xFFFFFFFF
_BINS = 4096
_TIME = 132_000_000_000_000_000
# A descriptor that lets everyone do everything; who owns the keys does not matter here.
_SECURITY = struct.pack("<BBHIIII", 1, 0, 0x8000, 0, 0, 0, 0)


def hive(root: Key) -> bytes:
    """A hive with the keys and values of a root key."""
    cells = _Cells()
    security = cells.add(b"sk\0\0" + struct.pack("<IIII", 32, 32, 1, len(_SECURITY)) + _SECURITY)
    top = _add_key(cells, "ROOT", root, _NONE, security)
    bins = cells.filled()
    header = bytearray(_BINS)
    struct.pack_into("<4sIIQIIIIIII", header, 0, b"regf", 1, 1, _TIME, 1, 3, 0, 1, top, len(bins), 1)
    checksum = 0
    for (word,) in struct.iter_unpack("<I", header[:508]):
        checksum ^= word
    struct.pack_into("<I", header, 508, checksum)
    return bytes(header) + bins


class _Cells:
    """One bin of cells. Offsets count from its start, which follows the hive's header."""

    def __init__(self) -> None:
        self._bin = bytearray(32)

    def add(self, data: bytes) -> int:
        """Add a cell in use; return its offset."""
        offset, size = len(self._bin), (len(data) + 4 + 7) // 8 * 8
        self._bin += struct.pack("<i", -size) + data.ljust(size - 4, b"\0")
        return offset

    def change(self, offset: int, data: bytes) -> None:
        """Replace the content of a cell."""
        self._bin[offset + 4 : offset + 4 + len(data)] = data

    def filled(self) -> bytes:
        """The bin with its header, and a free cell up to its end."""
        free = -len(self._bin) % _BINS
        if free:
            self._bin += struct.pack("<i", free).ljust(free, b"\0")
        struct.pack_into("<4sII8xQI", self._bin, 0, b"hbin", 0, len(self._bin), _TIME, 0)
        return bytes(self._bin)


def _add_key(cells: _Cells, name: str, key: Key, parent: int, security: int) -> int:
    offset = cells.add(bytes(76 + len(name)))
    children = sorted(((child, node) for child, node in key.items() if isinstance(node, Mapping)), key=_by_name)
    values = [_add_value(cells, child, node) for child, node in key.items() if not isinstance(node, Mapping)]
    below = [(_add_key(cells, child, node, offset, security), _hashed(child)) for child, node in children]
    listed = b"".join(struct.pack("<II", *pair) for pair in below)
    keys = cells.add(b"lh" + struct.pack("<H", len(below)) + listed) if below else _NONE
    numbers = cells.add(struct.pack(f"<{len(values)}I", *values)) if values else _NONE
    flags = 0x2C if parent == _NONE else 0x20
    fixed = struct.pack("<2sHQIIIIII", b"nk", flags, _TIME, 0, parent, len(below), 0, keys, _NONE)
    fixed += struct.pack("<IIIIIIIIIHH", len(values), numbers, security, _NONE, 64, 0, 64, 64, 0, len(name), 0)
    cells.change(offset, fixed + name.encode("latin-1"))
    return offset


def _add_value(cells: _Cells, name: str, value: "int | str | Key") -> int:
    if isinstance(value, int):
        size, data, kind = 0x80000004, value, 4
    else:
        text = (str(value) + "\0").encode("utf-16le")
        size, data, kind = len(text), cells.add(text), 1
    raw = name.encode("latin-1")
    return cells.add(b"vk" + struct.pack("<HIIIHH", len(raw), size, data, kind, 1, 0) + raw)


def _hashed(name: str) -> int:
    found = 0
    for letter in name.upper():
        found = (found * 37 + ord(letter)) & 0xFFFFFFFF
    return found


def _by_name(item: tuple[str, object]) -> str:
    return item[0].upper()
