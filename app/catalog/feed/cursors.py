"""Cursors of the feed: positions that only the gateway can read.

A cursor is base64url, without padding, of a version byte and AES-SIV (RFC 5297) over an epoch (8 bytes), a position
(8 bytes) and a salt (8 bytes). Positions count the events of all tenants, so clients must not be able to read,
compare or forge them. The same event always has the same cursor, in transports, pages and payloads.
"""

import base64
import binascii
import re
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from app.errors import InvalidInput

EPOCH_BYTES = 8
# One half authenticates, the other half encrypts (RFC 5297, section 2.2).
KEY_BYTES = 32

_VERSION = b"\2"
_SEALED_BYTES = 16 + EPOCH_BYTES + 8 + 8
_POSITIONS = range(2**63)
# Cursors of version 1 were not encrypted. They are still recognized, so that clients are asked to resync.
_FIRST_VERSION = re.compile(r"feed1:(0|[1-9][0-9]{0,17})")
_BEFORE_EPOCHS = b""
# An event reaches all its watchers at about the same time, so its cursor is encrypted once for all of them.
_CACHED = 4096


class Mark(NamedTuple):
    """A position of the feed within an epoch. Positions of different epochs can't be compared."""

    epoch: bytes
    position: int
    salt: int = 0

    def unlinked(self, salt: int | None = None) -> Self:
        """The same position with a cursor that differs from that of the event there.

        The newest event may be another tenant's: a cursor that changes only with it would reveal their activity.
        Without `salt`, every call returns a different cursor.
        """
        return self._replace(salt=secrets.randbits(63) | 1 if salt is None else salt)


class Cursors:
    """Encrypts and decrypts cursors with a key of `KEY_BYTES`."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._cipher = AESSIV(key)
        self._cached = lru_cache(maxsize=_CACHED)(self._text)

    def text(self, mark: Mark) -> str:
        """The cursor of a mark."""
        return self._cached(mark)

    def mark(self, text: str, field: Sequence[str] = ("after",)) -> Mark:
        """The mark of a cursor. Raises InvalidInput for every text that this gateway did not issue.

        `field` is the path of the argument. A cursor of version 1 gets an epoch that no feed has.
        """
        raw = _bytes_of(text)
        if _is_first_version(raw):
            return Mark(_BEFORE_EPOCHS, 0)
        if raw is None or len(raw) != 1 + _SEALED_BYTES or raw[:1] != _VERSION:
            raise _no_cursor(field)
        try:
            content = self._cipher.decrypt(raw[1:], [_VERSION])
        except InvalidTag:
            raise _no_cursor(field) from None
        numbers = memoryview(content)[EPOCH_BYTES:]
        return Mark(content[:EPOCH_BYTES], int.from_bytes(numbers[:8]), int.from_bytes(numbers[8:]))

    def _text(self, mark: Mark) -> str:
        if mark.position not in _POSITIONS:
            raise ValueError(f"{mark.position} is not a position of the feed")
        content = mark.epoch + mark.position.to_bytes(8) + mark.salt.to_bytes(8)
        return _base64(_VERSION + self._cipher.encrypt(content, [_VERSION]))


def _bytes_of(text: str) -> bytes | None:
    """The bytes that a text encodes; None unless it is their canonical encoding."""
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if _base64(raw) == text else None


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _is_first_version(raw: bytes | None) -> bool:
    return raw is not None and raw.isascii() and _FIRST_VERSION.fullmatch(raw.decode("ascii")) is not None


def _no_cursor(field: Sequence[str]) -> InvalidInput:
    return InvalidInput(
        "This is not a cursor of the event feed.",
        field=field,
        hint="Use a cursor from eventCursor, asOf, an event or a mutation's payload.",
    )
