"""Parses which bytes of an object a request selects (RFC 9110, sections 13 and 14)."""

import re

from starlette.datastructures import Headers

from app.sizes import exactly
from app.web.objects_errors import Refusal

_ONE_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


def is_unchanged(headers: Headers, etag: str) -> bool:
    """Whether the client already has the object, by If-None-Match. Weak tags match, too."""
    known = headers.get("if-none-match")
    if known is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
    return "*" in tags or etag in tags


def requested_range(headers: Headers, size: int, etag: str) -> tuple[int, int] | None:
    """Start and end (exclusive) of the single range that is requested; None for the whole object.

    Several ranges and invalid ones are ignored, as the RFC allows, and so is a range of an earlier version (If-Range).
    Raises Refusal with 416 when the range contains no byte of the object.
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
            f"The range contains no byte of the object, which has {exactly(size)}.",
            "Request bytes before its end.",
            {"content-range": f"bytes */{size}"},
        )
    return start, end
