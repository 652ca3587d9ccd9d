"""Tables of numbers as formats store them, whatever the byte order of the machine."""

import sys
from array import array
from typing import Literal


def numbers_in(code: Literal["I", "Q"], raw: bytes, order: Literal["big", "little"]) -> "array[int]":
    """The numbers of 32 (I) or 64 bits (Q) in `raw`; bytes at its end that make no whole number are left out."""
    table = array(code, b"")
    table.frombytes(raw[: len(raw) // table.itemsize * table.itemsize])
    if sys.byteorder != order:
        table.byteswap()
    return table
