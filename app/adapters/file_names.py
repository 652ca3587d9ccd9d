"""Safe names for downloaded files, from names that an untrusted user typed."""

import unicodedata
from pathlib import PurePosixPath
from urllib.parse import quote

_LONGEST_NAME = 180  # bytes of UTF-8; file systems allow 255, and browsers append to the name
_LONGEST_SUFFIX = 16
_FALLBACK = "image"

# Cc control, Cf format (including marks that change the writing direction), Cs half of a pair, Co private,
# Cn unassigned, Zl and Zp line breaks.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SEPARATORS = str.maketrans({character: "_" for character in '/\\:*?"<>|'})


def plain_file_name(name: str) -> str:
    """A file name that is safe to save under: one path element, printable, at most 180 bytes of UTF-8."""
    printable = "".join(c for c in name if unicodedata.category(c) not in _UNPRINTABLE)
    element = unicodedata.normalize("NFC", printable).translate(_SEPARATORS).strip(" .")
    return _shortened(element) or _FALLBACK


def _shortened(name: str) -> str:
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    suffix = PurePosixPath(name).suffix
    if len(suffix.encode()) > _LONGEST_SUFFIX:
        suffix = ""
    stem = name.encode()[: _LONGEST_NAME - len(suffix.encode())].decode(errors="ignore")
    return stem.rstrip(" .") + suffix


def attachment(name: str) -> str:
    """The Content-Disposition that saves a file as `name` (RFC 6266; RFC 8187 for non-ASCII names)."""
    plain = plain_file_name(name)
    ascii_name = "".join(c if " " <= c <= "~" and c not in '"\\%' else "_" for c in plain)
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(plain, safe='')}"
