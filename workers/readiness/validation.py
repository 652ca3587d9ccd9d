"""Validates what the reader printed. A hostile disk may control the reader, so nothing else of it is accepted."""

import json
import re
from typing import Any

from app.boot_readiness.report import BootReadiness, Note
from app.sizes import KIB

MOST_OUTPUT = 64 * KIB
_FAMILY = re.compile(r"[a-z0-9._-]{1,64}")
_VERSION = re.compile(r"[A-Za-z0-9._+~-]{1,64}")
_KEYS = frozenset(BootReadiness().to_json())


class InvalidReport(ValueError):
    """Raised when the output is not a report."""


def validated(output: bytes) -> BootReadiness:
    """The report in the reader's output. Raises InvalidReport."""
    if len(output) > MOST_OUTPUT:
        raise InvalidReport("too long")
    try:
        return _report(json.loads(output))
    except InvalidReport:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidReport(type(error).__name__) from error


def _report(found: Any) -> BootReadiness:
    if not isinstance(found, dict) or found.keys() != _KEYS:
        raise InvalidReport("not the fields of a report")
    for key, value in found.items():
        if key != "notes" and not isinstance(value, str | None):
            raise InvalidReport(f"{key} is not a text")
    notes = found["notes"]
    if not isinstance(notes, list) or len(notes) > len(Note) or not all(isinstance(note, str) for note in notes):
        raise InvalidReport("notes is not a list of notes")
    for key, pattern in (("os_family", _FAMILY), ("os_version", _VERSION)):
        if found[key] is not None and not pattern.fullmatch(found[key]):
            raise InvalidReport(f"{key} is not a name")
    if len(set(notes)) < len(notes):
        raise InvalidReport("a note twice")
    return BootReadiness.from_json(found)
