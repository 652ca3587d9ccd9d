"""Which media type an operation is answered with, by what the client accepts (RFC 9110, section 12.5.1)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

# Browsers send some eight media ranges. Without a bound, a header of 64 KiB takes a quarter of a second.
_MOST_RANGES = 32


class MediaType(StrEnum):
    """What an operation can be answered with. The first is the answer to a client that takes anything."""

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
        """How exactly it names `offered`: 2 by name, 1 by type, 0 as anything, -1 not at all.

        Streams are never meant by a wildcard. A multipart one has to name the subscription protocol, for
        other protocols share its media type.
        """
        if self.name == offered:
            speaks = self.parameters.get("subscriptionspec", "").startswith("1.0")
            return 2 if speaks or offered is not MediaType.MULTIPART else -1
        if offered.streams:
            return -1
        return {"application/*": 1, "*/*": 0}.get(self.name, -1)


def media_ranges(accept: str) -> Iterator[MediaRange]:
    """The first elements of an Accept header; those that can't be read are left out."""
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
    """What to answer with: the highest quality wins, then what stands first. None when nothing fits.

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
    """Whether a browser asks for something to look at."""
    return any(wanted.name == "text/html" and wanted.quality > 0 for wanted in media_ranges(accept))
