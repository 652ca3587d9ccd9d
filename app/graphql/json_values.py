"""JSON from clients, with limits on how many values it contains and how deeply they are nested.

Both are counted before the work that grows with them: creating Python objects for a document, and coercing variables.
This bounds the time that a request takes on the event loop, which its number of bytes alone does not.
"""

import json
import re
from typing import Any

# Whole strings, including an unterminated last one. Possessive quantifiers, so that no text causes backtracking.
_STRINGS = re.compile(r'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z)', re.DOTALL)


class NotJson(ValueError):
    """Raised when a text can't be parsed as JSON."""


class TooManyValues(ValueError):
    """Raised when a text contains more JSON values than the limit."""


def read_json(text: bytes | str, most_values: int) -> object:
    """Parse a JSON text (bytes are UTF-8). Raises NotJson or TooManyValues."""
    try:
        decoded = text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass")
        if _separators(decoded) > most_values:
            _count_values(decoded, most_values)
        return json.loads(decoded)
    except TooManyValues:
        raise
    # Brackets that are nested too deeply raise RecursionError, everything else ValueError.
    except (ValueError, RecursionError):
        raise NotJson from None


def _count_values(text: str, most_values: int) -> None:
    """Raises TooManyValues for a text with more separators outside strings than `most_values`."""
    # Each separator is followed by at most two strings, a key and its value. Looking at more of them would take longer
    # than parsing a text within the limit.
    most_strings = 2 * most_values + 1
    rest, strings = _STRINGS.subn("", text, count=most_strings + 1)
    if strings > most_strings or _separators(rest) > most_values:
        raise TooManyValues


def count_items(value: object, most_items: int) -> tuple[int, int]:
    """The number of list elements and object fields in a value, and how deeply they are nested.

    Stops counting above `most_items`.
    """
    items = depth = 0
    level: list[Any] = [value]
    while level and items <= most_items:
        below: list[Any] = []
        for container in level:
            children = _children(container)
            items += len(children)
            if items > most_items:
                break
            below += [child for child in children if isinstance(child, dict | list)]
        depth += any(level)
        level = below
    return items, depth


def _children(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _separators(text: str) -> int:
    return sum(text.count(separator) for separator in "[{,")


def encode(value: object) -> str:
    """The value as JSON, on one line and in ASCII only."""
    return json.dumps(value, separators=(",", ":"))
