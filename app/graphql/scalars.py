"""The scalars of the schema, for StrawberryConfig(scalar_map=SCALARS)."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NewType
from urllib.parse import urlsplit

import strawberry
from graphql import GraphQLError
from strawberry.types.scalar import ScalarDefinition

ByteSize = NewType("ByteSize", int)
EventCursor = NewType("EventCursor", str)
URL = NewType("URL", str)

_INT64 = range(-(2**63), 2**63)
# JSON numbers with a fraction or exponent arrive as floats, which are exact only up to this.
_EXACT_FLOAT = 2.0**53
_LONGEST_CURSOR = 256
_LONGEST_URL = 8192
# RFC 3339, section 5.6.
_RFC_3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)


def _parse_byte_size(value: object) -> ByteSize:
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_FLOAT:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise GraphQLError("A ByteSize must be a whole number of bytes, sent as a JSON number.")
    if value not in _INT64:
        raise GraphQLError("A ByteSize must fit in 64 bits: its maximum is 9223372036854775807.")
    return ByteSize(value)


def _serialize_byte_size(value: object) -> int:
    if not isinstance(value, int) or value not in _INT64:
        raise TypeError(f"{value!r} is not a ByteSize")
    return value


def _parse_instant(value: object) -> datetime:
    if isinstance(value, str) and _RFC_3339.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise GraphQLError("A DateTime must be RFC 3339 with a time zone, for example 2026-01-31T12:00:00Z.")


def _serialize_instant(value: datetime) -> str:
    if value.tzinfo is None:
        raise ValueError(f"{value!r} has no zone")
    return value.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def _parse_event_cursor(value: object) -> EventCursor:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_CURSOR:
        raise GraphQLError("An EventCursor must be a string that this API returned.")
    return EventCursor(value)


def _parse_url(value: object) -> URL:
    try:
        if isinstance(value, str) and len(value) <= _LONGEST_URL:
            address = urlsplit(value)
            if address.scheme in ("http", "https") and address.hostname:
                return URL(value)
    except ValueError:
        pass
    raise GraphQLError("A URL must be an absolute http or https URL (RFC 3986).")


SCALARS: Mapping[object, ScalarDefinition] = {
    ByteSize: strawberry.scalar(
        name="ByteSize",
        description="A number of bytes: a signed 64-bit integer, sent as a JSON number.",
        serialize=_serialize_byte_size,
        parse_value=_parse_byte_size,
    ),
    datetime: strawberry.scalar(
        name="DateTime",
        description="An instant in UTC, as in RFC 3339. Instants in other time zones are accepted and converted.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3339",
        serialize=_serialize_instant,
        parse_value=_parse_instant,
    ),
    EventCursor: strawberry.scalar(
        name="EventCursor",
        description="An opaque position in the event feed. Only the server can tell which of two is later.",
        serialize=str,
        parse_value=_parse_event_cursor,
    ),
    URL: strawberry.scalar(
        name="URL",
        description="An absolute http or https URL.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3986",
        serialize=str,
        parse_value=_parse_url,
    ),
}
