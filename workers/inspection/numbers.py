"""Reads tables of numbers as disk formats store them, independent of the machine's byte order."""

import sys
from array import array
from typing import Literal


def numbers_in(code: Literal["I", "Q"], raw: bytes, order: Literal["big", "little"]) -> "array[int]":
    """The numbers of 32 bits (I) or 64 bits (Q) in `raw`; an incomplete number at its end is ignored."""
    table = array(code, b"")
    table.frombytes(raw[: len(raw) // table.itemsize * table.itemsize])
    if sys.byteorder != order:
        table.byteswap()
    return table
