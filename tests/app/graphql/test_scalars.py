"""ByteSize, DateTime, EventCursor and URL: values that they accept, results, and errors."""

import asyncio
from typing import Any

import pytest

from tests.support.toy_schema import CALLERS, Hub, ToyContext, toy_schema

SCHEMA = toy_schema()
FIELDS = {
    "ByteSize": "echoSize(size: $value)",
    "DateTime": "echoInstant(instant: $value)",
    "EventCursor": "echoCursor(cursor: $value)",
    "URL": "echoUrl(url: $value)",
}


def echo(scalar: str, value: object) -> tuple[Any, str]:
    """The result and the message of the first error, for a value sent as a variable."""
    document = f"query ($value: {scalar}!) {{ echo: {FIELDS[scalar]} }}"
    return _run(document, {"value": value})


def echo_literal(scalar: str, literal: str) -> tuple[Any, str]:
    """The same, for a value written in the document."""
    return _run(f"{{ echo: {FIELDS[scalar].replace('$value', literal)} }}", {})


def _run(document: str, variables: dict[str, object]) -> tuple[Any, str]:
    context = ToyContext(Hub(), None, CALLERS["good"], "id")  # type: ignore[arg-type]
    result = asyncio.run(SCHEMA.execute(document, variables, context_value=context))
    return (result.data or {}).get("echo"), result.errors[0].message if result.errors else ""


@pytest.mark.parametrize(
    ("scalar", "sent", "received"),
    [
        ("ByteSize", 0, 0),
        ("ByteSize", 5_000_000_000, 5_000_000_000),
        ("ByteSize", 2**63 - 1, 2**63 - 1),
        ("ByteSize", -(2**63), -(2**63)),
        ("ByteSize", 5e9, 5_000_000_000),
        ("DateTime", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("DateTime", "2026-01-31t12:00:00.25z", "2026-01-31T12:00:00.250000Z"),
        ("DateTime", "2026-01-31T12:00:00+05:30", "2026-01-31T06:30:00Z"),
        ("EventCursor", "AAAA", "AAAA"),
        ("URL", "https://host.example/a?b=c#d", "https://host.example/a?b=c#d"),
    ],
)
def test_what_is_taken_comes_back(scalar: str, sent: object, received: object) -> None:
    assert echo(scalar, sent) == (received, "")


@pytest.mark.parametrize(
    ("scalar", "sent", "says"),
    [
        ("ByteSize", "5", "A ByteSize must be a whole number of bytes, sent as a JSON number."),
        ("ByteSize", 1.5, "A ByteSize must be a whole number"),
        ("ByteSize", 1e300, "A ByteSize must be a whole number"),
        ("ByteSize", True, "A ByteSize must be a whole number"),
        ("ByteSize", float("nan"), "A ByteSize must be a whole number"),
        ("ByteSize", [1], "A ByteSize must be a whole number"),
        ("ByteSize", 2**63, "A ByteSize must fit in 64 bits: its maximum is 9223372036854775807."),
        ("ByteSize", -(2**63) - 1, "A ByteSize must fit in 64 bits"),
        ("DateTime", "2026-01-31", "A DateTime must be RFC 3339 with a time zone, for example 2026-01-31T12:00:00Z."),
        ("DateTime", "2026-01-31T12:00:00", "A DateTime must be RFC 3339 with a time zone"),
        ("DateTime", "2026-02-30T12:00:00Z", "A DateTime must be RFC 3339 with a time zone"),
        ("DateTime", "2026-01-31T24:00:01Z", "A DateTime must be RFC 3339 with a time zone"),
        ("DateTime", "0001-01-01T00:00:00+14:00", "A DateTime must be RFC 3339 with a time zone"),
        ("DateTime", "2026-01-31T12:00:00Z\n", "A DateTime must be RFC 3339 with a time zone"),
        ("DateTime", "２０２６-01-31T12:00:00Z", "A DateTime must be RFC 3339 with a time zone"),  # noqa: RUF001
        ("DateTime", 1769860800, "A DateTime must be RFC 3339 with a time zone"),
        ("EventCursor", "", "An EventCursor must be a string that this API returned."),
        ("EventCursor", "A" * 257, "An EventCursor must be a string"),
        ("EventCursor", 7, "An EventCursor must be a string"),
        ("URL", "/relative", "A URL must be an absolute http or https URL (RFC 3986)."),
        ("URL", "javascript:alert(1)", "A URL must be an absolute"),
        ("URL", "http://[", "A URL must be an absolute"),
        ("URL", "https://host.example/" + "a" * 9000, "A URL must be an absolute"),
        ("URL", {}, "A URL must be an absolute"),
    ],
)
def test_an_invalid_value_has_the_error_of_its_scalar(scalar: str, sent: object, says: str) -> None:
    received, message = echo(scalar, sent)
    assert received is None
    assert message.startswith(f"Variable '$value' has invalid value: {says}")


def test_literals_are_read_like_variables() -> None:
    assert echo_literal("ByteSize", "5000000000") == (5_000_000_000, "")
    assert echo_literal("DateTime", '"2026-01-31T12:00:00Z"') == ("2026-01-31T12:00:00Z", "")
    assert echo_literal("ByteSize", '"5"')[1] == "A ByteSize must be a whole number of bytes, sent as a JSON number."
    assert echo_literal("DateTime", '"soon"')[1].startswith("A DateTime must be RFC 3339")


def test_every_scalar_is_described() -> None:
    sdl = SCHEMA.as_str()
    assert '"""A number of bytes: a signed 64-bit integer, sent as a JSON number."""\nscalar ByteSize' in sdl
    for name in ("DateTime", "EventCursor", "URL"):
        assert f'"""\nscalar {name}' in sdl


def test_what_is_no_scalar_is_never_sent() -> None:
    context = ToyContext(Hub(), None, CALLERS["good"], "id")  # type: ignore[arg-type]
    result = asyncio.run(SCHEMA.execute("{ unserializable }", context_value=context))
    assert result.data == {"unserializable": None}
