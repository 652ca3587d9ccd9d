"""Which bytes of an object a request asks for (RFC 9110, sections 13 and 14)."""

import re

from starlette.datastructures import Headers

from app.web.objects_errors import Refusal

_ONE_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


def is_unchanged(headers: Headers, etag: str) -> bool:
    """Whether If-None-Match names what the client would get: it has it already. Weak tags match, too."""
    known = headers.get("if-none-match")
    if known is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
    return "*" in tags or etag in tags


def requested_range(headers: Headers, size: int, etag: str) -> tuple[int, int] | None:
    """Start and end (not included) of the one range that is asked for; None for all of the object.

    Ranges in the plural, and what is no range, may be ignored and are; so is, by If-Range, one of an earlier
    version. Raises Refusal with 416 when the range lies behind the end.
    """
    if headers.get("if-range", etag) != etag:
        return None
    match = _ONE_RANGE.fullmatch(headers.get("range", "").replace(" ", "").lower())
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= end:
        raise Refusal(
            416,
            "RANGE_NOT_SATISFIABLE",
            f"The object has {size} bytes.",
            "Ask for bytes before its end.",
            {"content-range": f"bytes */{size}"},
        )
    return start, end
