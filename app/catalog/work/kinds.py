"""The table of job kinds: the priority of each, whether it is a conversion, and the detail in its row.

The workers have tables with a function for each kind, which `every_kind` checks as well.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Self, TypeVar

from app.lifecycle import OF_HOSTS, JobKind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Detail:
    """The data of a job that its row stores. Fields with their default value are omitted from the row."""

    def to_row(self) -> dict[str, Any]:
        """The detail as values for JSON."""
        values = {known.name: getattr(self, known.name) for known in fields(self)}
        defaults = {known.name: known.default for known in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != defaults[name]
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The detail from the row of this or an earlier version. Raises TypeError for the row of another kind."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectHead(Detail):
    """Inspect the first bytes of a source, given by its id, while the rest arrives."""

    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion(Detail):
    """The data of all conversions: the id of the source, and how often it restarted (`times`) and lost its turn."""

    source: str
    times: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Convert(Conversion):
    """Convert a source to an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(Conversion):
    """A job of a conversion split over several workers; `shared` is their common plan, which only they read."""

    shared: dict[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRange(Split):
    """Convert one range, by its number from 0. `stored` is the bytes it takes in the store; None until it is done."""

    range: int
    stored: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assemble(Split):
    """Assemble the ranges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfBlob(Detail):
    """Find something out about a blob, given by its id."""

    blob: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hash(OfBlob):
    """Compute the SHA-256 of a blob."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReadiness(OfBlob):
    """Find out whether the disk in a blob is ready to boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erase(Detail):
    """Free the bytes of sources, given by their ids, and of objects, given by their keys."""

    sources: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleServer(Detail):
    """Make a server, given by its id, what its users want it to be."""

    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleVolume(Detail):
    """Delete the disk of a deleted volume, given by its id."""

    volume: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyBoot(OfBlob):
    """Boot a throwaway server from a blob, and see whether it comes up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadConsole(Detail):
    """Read the end of the serial console of a server, given by its id."""

    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureVolume(Detail):
    """Capture a volume into an image, both given by their ids; `key` is where the bytes are stored."""

    image: str
    volume: str
    key: str


@dataclass(frozen=True, slots=True)
class Kind:
    """The properties of a kind of job.

    A lower `priority` goes first: what users wait for goes before cleaning up. Conversions are taken in turns.
    """

    detail: type[Detail]
    priority: int
    is_conversion: bool = False


def every_kind(table: Mapping[JobKind, T], among: Collection[JobKind] = tuple(JobKind)) -> Mapping[JobKind, T]:
    """A read-only table by kind of job. Raises LookupError when a kind, of those in `among`, is missing."""
    missing = sorted(set(among) - set(table))
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
        # A fraction of a second, and users want to know it before they launch.
        JobKind.CHECK_READINESS: Kind(CheckReadiness, priority=3),
        JobKind.HASH: Kind(Hash, priority=4),
        JobKind.SETTLE_SERVER: Kind(SettleServer, priority=0),
        JobKind.SETTLE_VOLUME: Kind(SettleVolume, priority=2),
        JobKind.VERIFY_BOOT: Kind(VerifyBoot, priority=3),
        JobKind.READ_CONSOLE: Kind(ReadConsole, priority=0),
        JobKind.CAPTURE: Kind(CaptureVolume, priority=0),
    }
)

# The kinds that are taken in turns, limited to a number of images per project at a time.
CONVERSIONS = frozenset(kind for kind, known in JOBS.items() if known.is_conversion)

# The kinds that any worker may do; the others belong to a host.
OF_WORKERS = frozenset(JobKind) - OF_HOSTS

_KINDS = {known.detail: kind for kind, known in JOBS.items()}


def kind_of(detail: Detail) -> JobKind:
    """The kind of job that a detail belongs to."""
    return _KINDS[type(detail)]
