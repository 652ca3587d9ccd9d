"""Validates and normalizes what users enter: names, labels and operating systems."""

import unicodedata
from collections.abc import Sequence

from app.errors import InvalidInput

_MAXIMUM_NAME = 255
_MAXIMUM_SEARCH = 64
_MAXIMUM_LABELS = 64
_MAXIMUM_LABEL_KEY = 63
_MAXIMUM_LABEL_VALUE = 255


def name_key(name: str) -> str:
    """The key by which names are compared and sorted: case-folded, in Unicode normalization form KC."""
    return unicodedata.normalize("NFKC", name).casefold()


def clean_name(name: str, field: Sequence[str] = ("name",)) -> str:
    """A name without surrounding spaces, in NFC. Raises InvalidInput when it is empty, too long or not printable."""
    cleaned = unicodedata.normalize("NFC", name).strip()
    if not cleaned or len(cleaned) > _MAXIMUM_NAME:
        raise InvalidInput(f"A name must have 1 to {_MAXIMUM_NAME} characters.", field=field)
    require_text(cleaned, field)
    return cleaned


def require_text(text: str, field: Sequence[str]) -> None:
    """Raises InvalidInput when a text contains control characters or lone surrogates."""
    if not is_text(text):
        raise InvalidInput("The text contains control characters.", field=field, hint="Remove them.")


def is_text(text: str) -> bool:
    """Whether a text is free of control characters and lone surrogates, which databases don't accept."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def require_searchable(text: str, field: Sequence[str]) -> None:
    """Raises InvalidInput when a text is too long to search for."""
    # Normalization may turn one character into several.
    length = max(len(text), len(name_key(text)) if len(text) <= _MAXIMUM_SEARCH else 0)
    if length > _MAXIMUM_SEARCH:
        raise InvalidInput(
            f"The text to search for has {length} characters; at most {_MAXIMUM_SEARCH} are allowed.",
            field=field,
            hint="Search for a shorter part of the name.",
        )


def clean_labels(labels: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Labels as stored, sorted by key. Raises InvalidInput for too many, too long or duplicate ones."""
    if len(labels) > _MAXIMUM_LABELS:
        raise InvalidInput(
            f"An image can have at most {_MAXIMUM_LABELS} labels; these are {len(labels)}.", field=("labels",)
        )
    for at, (key, value) in enumerate(labels):
        if not 1 <= len(key) <= _MAXIMUM_LABEL_KEY or len(value) > _MAXIMUM_LABEL_VALUE:
            raise InvalidInput(
                f"A label's key must have 1 to {_MAXIMUM_LABEL_KEY} characters and its value at most "
                f"{_MAXIMUM_LABEL_VALUE}.",
                field=("labels", str(at)),
            )
        require_text(key + value, ("labels", str(at)))
    if len({key for key, _ in labels}) < len(labels):
        raise InvalidInput("Two labels have the same key.", field=("labels",))
    return [{"key": key, "value": value} for key, value in sorted(labels)]


def clean_os(family: str, version: str | None) -> tuple[str, str | None]:
    """An operating system as stored: the family in lower case, so that filters find it. Raises InvalidInput."""
    for part, field in ((family, "family"), (version or "x", "version")):
        if not 1 <= len(part.strip()) <= 64:
            raise InvalidInput(
                "An operating system's family and version must have 1 to 64 characters each.", field=("os", field)
            )
        require_text(part, ("os", field))
    return family.strip().lower(), version.strip() if version else None
