"""The callers, and the cells of the tables in `access_table`: the outcome of an operation for a caller."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.lifecycle import ProjectRole
from tests.support.gateway import OPERATOR

READER, MEMBER, ADMIN = ProjectRole.READER, ProjectRole.MEMBER, ProjectRole.ADMIN


@dataclass(frozen=True)
class Caller:
    """A caller: the `sub` of their token, the project that counts as their own, and their role in it."""

    subject: str | None
    place: str = "home"
    role: ProjectRole | None = None


CALLERS = {
    "reader": Caller("reader", "home", READER),
    "member": Caller("member", "home", MEMBER),
    "admin": Caller("admin", "home", ADMIN),
    "launch reader": Caller("launch-reader", "launching", READER),
    "launch member": Caller("launch-member", "launching", MEMBER),
    "launch admin": Caller("launch-admin", "launching", ADMIN),
    "edit reader": Caller("edit-reader", "editing", READER),
    "edit member": Caller("edit-member", "editing", MEMBER),
    "edit admin": Caller("edit-admin", "editing", ADMIN),
    "asked member": Caller("asked-member", "asked", MEMBER),
    "asked admin": Caller("asked-admin", "asked", ADMIN),
    "anonymous": Caller(None),
    "stranger": Caller("stranger"),
    "admin of another organization": Caller("abroad-admin", "abroad", ADMIN),
    "owner of the organization": Caller("owner"),
    "operator": Caller(OPERATOR),
}

EVENTS = {
    "C": "ImageCreated",
    "U": "ImageUpdated",
    "M": "ImageStatusChanged",
    "S": "ImageShareChanged",
    "D": "ImageDeleted",
}
SEES = {
    "own": ("home",),
    "shared": ("home", "launching", "editing"),
    "foreign": ("abroad",),
    "public": ("home", "launching", "editing", "asked", "aside", "abroad", "overseas", "islands"),
}


@dataclass(frozen=True)
class Row:
    """A line of a table: the outcome of an operation by caller, and the events of each project by outcome."""

    kind: str
    line: str
    outcomes: Mapping[str, str]
    events: Mapping[str, Mapping[str, Sequence[str]]]

    def __str__(self) -> str:
        return f"{self.kind}: {self.line}"


@dataclass(frozen=True)
class Cell:
    """One caller in one row."""

    row: Row
    caller: str

    @property
    def outcome(self) -> str:
        return self.row.outcomes[self.caller]

    def __str__(self) -> str:
        return f"{self.row}: {self.caller}"


def rows_of(tables: Mapping[str, str]) -> list[Row]:
    """The lines of the tables, for one kind of image after the other."""
    return [_row(kind, line) for kind, table in tables.items() for line in table.strip().splitlines()]


def cells_of(tables: Mapping[str, str]) -> list[Cell]:
    """The cells of every caller in every row."""
    return [Cell(row, caller) for row in rows_of(tables) for caller in CALLERS]


def _row(kind: str, text: str) -> Row:
    line, *groups = [part.strip() for part in text.split("|")]
    outcomes = dict(zip(CALLERS, " ".join(groups[:6]).split(), strict=True))
    return Row(kind, line, outcomes, dict(_events(kind, groups[6])) if groups[6:] else {})


def _events(kind: str, text: str) -> Iterator[tuple[str, Mapping[str, Sequence[str]]]]:
    groups = {"sees": SEES[kind], "both": ("project", "another")}
    for clause in text.split(";"):
        outcome, _, listed = clause.rpartition(":")
        by_project: dict[str, Sequence[str]] = {}
        for where, letters in (part.split() for part in listed.split(",")):
            events = [EVENTS[letter] for letter in letters]
            by_project |= {project: events for project in groups.get(where, (where,))}
        yield outcome.strip() or "+", by_project
