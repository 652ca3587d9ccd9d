"""Keyset cursors: opaque to clients, and treated as hostile when they come back.

A cursor is base64url, without padding, of the JSON array [version, order, sort key, id].
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass

from app.errors import InvalidInput

_VERSION = 1
# Room for the longest sort key of a name: of its 255 characters each may become 33 bytes when it is normalized.
_MAXIMUM_LENGTH = 16 * 1024
_ALPHABET = re.compile(r"[A-Za-z0-9_-]+")
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a row stands in a sorted list: its sort key, and its id where keys are equal."""

    key: str | int | None
    id: str


def encode_cursor(order: str, key: str | int | None, id: str) -> str:
    """The cursor of the row at (`key`, `id`) in the list sorted by `order`."""
    text = json.dumps([_VERSION, order, key, id], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(text: str, order: str, *, field: str = "after") -> Position:
    """The position that a cursor of this order stands for; `field` is the argument that it came in.

    Raises InvalidInput for anything that `encode_cursor` did not make.
    """
    match _content(text):
        case [_, _, str() | int() | None as key, str(id_)] if _is_storable(key) and _is_storable(id_):
            # Only the very text that was given out comes through: this version and order, no other spelling.
            if encode_cursor(order, key, id_) == text:
                return Position(key, id_)
    raise InvalidInput(
        "This is not a cursor of this list.",
        field=(field,),
        hint="Send a startCursor or endCursor of the same list in the same order, or leave it out.",
    )


def _content(text: str) -> object:
    if len(text) > _MAXIMUM_LENGTH or not _ALPHABET.fullmatch(text):
        return None
    try:
        return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None


def _is_storable(value: str | int | None) -> bool:
    """Whether a database takes it: no NUL, no half of a surrogate pair, no more than 64 bits."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
    return value is None or (not isinstance(value, bool) and value in _INT64)
