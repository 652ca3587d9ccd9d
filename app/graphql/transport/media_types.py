"""Chooses the media type of a response by the Accept header (RFC 9110, section 12.5.1)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

# Browsers send about eight media ranges. Without a limit, a header of 64 KiB takes a quarter of a second.
_MOST_RANGES = 32


class MediaType(StrEnum):
    """Media types of responses. The first is used for a client that accepts anything."""

    JSON = "application/json"
    GRAPHQL_RESPONSE = "application/graphql-response+json"
    EVENT_STREAM = "text/event-stream"
    MULTIPART = "multipart/mixed"

    @property
    def streams(self) -> bool:
        """Whether it can carry a subscription."""
        return self in (MediaType.EVENT_STREAM, MediaType.MULTIPART)


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One element of an Accept header; `position` counts from the left."""

    name: str
    parameters: Mapping[str, str]
    quality: float
    position: int

    def specificity(self, offered: MediaType) -> int:
        """How exactly the range matches `offered`: 2 by name, 1 by type, 0 as `*/*`, -1 not at all.

        Wildcards never match streams. A multipart range has to name the subscription protocol, because other
        protocols use the same media type.
        """
        if self.name == offered:
            speaks = self.parameters.get("subscriptionspec", "").startswith("1.0")
            return 2 if speaks or offered is not MediaType.MULTIPART else -1
        if offered.streams:
            return -1
        return {"application/*": 1, "*/*": 0}.get(self.name, -1)


def media_ranges(accept: str) -> Iterator[MediaRange]:
    """The first 32 elements of an Accept header, without those that can't be parsed."""
    for position, element in enumerate(accept.split(",", _MOST_RANGES)[:_MOST_RANGES]):
        name, *pairs = (part.strip() for part in element.split(";", _MOST_RANGES)[:_MOST_RANGES])
        parameters = {}
        for pair in pairs:
            key, _, value = pair.partition("=")
            parameters[key.strip().lower()] = value.strip().strip("'\"")
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            continue
        if name:
            yield MediaRange(name.lower(), parameters, quality, position)


def negotiate(accept: str) -> MediaType | None:
    """The media type with the highest quality, or of several, the first in the header; None if none is accepted.

    An empty header accepts anything.
    """
    ranges = list(media_ranges(accept)) if accept.strip() else list(media_ranges("*/*"))
    choices = []
    for offered in MediaType:
        nearest = max(ranges, key=lambda wanted: wanted.specificity(offered), default=None)
        if nearest and nearest.specificity(offered) >= 0 and nearest.quality > 0:
            choices.append((nearest.quality, -nearest.position, offered))
    best = max(choices, key=lambda choice: choice[:2], default=None)
    return best[2] if best else None


def wants_page(accept: str) -> bool:
    """Whether the client accepts HTML, as browsers do when they open a page."""
    return any(wanted.name == "text/html" and wanted.quality > 0 for wanted in media_ranges(accept))
