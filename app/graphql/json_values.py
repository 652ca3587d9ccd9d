"""JSON from clients, bounded in how many values it holds and how deeply they are nested.

Both are counted before the work that grows with them: Python objects for a document, coercion for variables. What one
request may cost the event loop is bounded by that, and not only by its bytes.
"""

import json
import re
from typing import Any

# Whole strings, a last one without an end included. Possessive, so that no text makes it backtrack.
_STRINGS = re.compile(r'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z)', re.DOTALL)


class NotJson(ValueError):
    """Raised when a text can't be read as JSON."""


class TooManyValues(ValueError):
    """Raised when a text holds more JSON values than the limit."""


def read_json(text: bytes | str, most_values: int) -> object:
    """The value in a JSON text (UTF-8 when bytes). Raises NotJson or TooManyValues."""
    try:
        decoded = text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass")
        if _separators(decoded) > most_values and _separators(_STRINGS.sub("", decoded)) > most_values:
            raise TooManyValues
        return json.loads(decoded)
    except TooManyValues:
        raise
    # Brackets nested without end raise RecursionError, everything else ValueError.
    except (ValueError, RecursionError):
        raise NotJson from None


def count_items(value: object, most_items: int) -> tuple[int, int]:
    """How many elements of lists and fields of objects a value holds, and how deeply it nests them.

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
    """JSON on one line, ASCII only."""
    return json.dumps(value, separators=(",", ":"))
