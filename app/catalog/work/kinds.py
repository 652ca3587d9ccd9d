"""The table of jobs: of each kind, how urgent it is, whether it is a conversion, and what its row says.

The workers have a function for each kind, in a table that `every_kind` checks as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Self, TypeVar

from app.lifecycle import JobKind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Detail:
    """What the row of a job says of it. Fields that have their default are left out of the row."""

    def to_row(self) -> dict[str, Any]:
        """The detail as JSON has it."""
        values = {known.name: getattr(self, known.name) for known in fields(self)}
        defaults = {known.name: known.default for known in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != defaults[name]
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The detail that `to_row` gave, or an older version. Raises TypeError for the row of another kind."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectHead(Detail):
    """Look at the first bytes of a source, by its id, while the rest arrives."""

    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion(Detail):
    """What all jobs of conversions say: the id of the source, and how often it has begun again or lost its turn."""

    source: str
    times: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Convert(Conversion):
    """Make an image of a source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(Conversion):
    """A part of a conversion that several workers do; `shared` is what they agreed on, which they alone read."""

    shared: dict[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRange(Split):
    """Do one range, by its number from 0. `stored` is how many bytes it takes, once it is done."""

    range: int
    stored: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assemble(Split):
    """Put the ranges together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hash(Detail):
    """Find the SHA-256 of a blob, by its id."""

    blob: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Erase(Detail):
    """Free the bytes of sources, by their ids, and objects, by their keys."""

    sources: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of a kind of job.

    A lower `priority` goes first: what users wait for goes before what is cleaned up. Conversions are taken by turns.
    """

    detail: type[Detail]
    priority: int
    is_conversion: bool = False


def every_kind(table: Mapping[JobKind, T]) -> Mapping[JobKind, T]:
    """A table over the kinds of jobs. Raises LookupError unless it has all of them."""
    missing = sorted(set(JobKind) - set(table))
    if missing:
        raise LookupError(f"no entry for jobs of kind {', '.join(missing)}")
    return MappingProxyType(dict(table))


JOBS = every_kind(
    {
        JobKind.INSPECT_HEAD: Kind(InspectHead, priority=0),
        JobKind.CONVERT: Kind(Convert, priority=1, is_conversion=True),
        JobKind.STREAM_RANGE: Kind(StreamRange, priority=1, is_conversion=True),
        JobKind.ASSEMBLE: Kind(Assemble, priority=1, is_conversion=True),
        JobKind.ERASE: Kind(Erase, priority=2),
        JobKind.HASH: Kind(Hash, priority=3),
    }
)

# The kinds that turns are taken for. A limit says of how many images of a project they run at once.
CONVERSIONS = frozenset(kind for kind, known in JOBS.items() if known.is_conversion)

_KINDS = {known.detail: kind for kind, known in JOBS.items()}


def kind_of(detail: Detail) -> JobKind:
    """The kind of the job that has such a detail."""
    return _KINDS[type(detail)]
