"""Text for terminals. Text from other sources can't move the cursor, change colours or reverse a line."""

import unicodedata
from datetime import datetime

from app.client.generated.enums import ShareGrant
from app.sizes import counted

# Control characters, format characters (which include the marks that change the writing direction), surrogates,
# private-use and unassigned characters, and line and paragraph separators.
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_AGES = ((60, "second"), (60, "minute"), (24, "hour"), (30, "day"), (12, "month"))


def visible(text: str) -> str:
    """The text with invisible characters escaped, for example \\x1b or \\u202e."""
    return "".join(_spelled(character) for character in text)


def _spelled(character: str) -> str:
    if unicodedata.category(character) not in _INVISIBLE:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def size(count: int | None) -> str:
    """A number of bytes for people, such as "1.5 GiB"; "-" for None."""
    if count is None:
        return "-"
    if count == 1:
        return "1 byte"
    amount, unit = float(count), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{count} {_UNITS[0]}" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"


def age(then: datetime, now: datetime) -> str:
    """How long ago something happened, for people."""
    amount = int((now - then).total_seconds())
    if amount < 1:
        return "just now"
    for step, name in _AGES:
        if amount < step:
            return _ago(amount, name)
        amount //= step
    return _ago(amount, "year")


def _ago(amount: int, name: str) -> str:
    return f"{counted(amount, name)} ago"


_GRANTS = {ShareGrant.LAUNCH: "launch", ShareGrant.LAUNCH_AND_EDIT: "launch and edit"}


def granted(grant: ShareGrant) -> str:
    """What a share allows."""
    return _GRANTS.get(grant, grant.lower())
