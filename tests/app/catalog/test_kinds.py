"""The table of jobs: every kind is in it, and what a row says comes back as it was written."""

import json

import pytest

from app.catalog.work.kinds import (
    CONVERSIONS,
    JOBS,
    Convert,
    Detail,
    Erase,
    InspectHead,
    StreamRange,
    every_kind,
    kind_of,
)
from app.lifecycle import JobKind
from tests.support.details import DETAILS


@pytest.mark.parametrize("detail", DETAILS.values(), ids=list(DETAILS))
def test_a_detail_comes_back_from_its_row(detail: Detail) -> None:
    row = json.loads(json.dumps(detail.to_row()))
    assert JOBS[kind_of(detail)].detail.from_row(row) == detail


def test_each_kind_has_a_detail_of_its_own() -> None:
    assert {kind: kind_of(detail) for kind, detail in DETAILS.items()} == {kind: kind for kind in JobKind}


def test_a_row_says_what_is_not_usual() -> None:
    assert Convert(source="src_1").to_row() == {"source": "src_1"}
    assert Convert(source="src_1", times=1, lost=2).to_row() == {"source": "src_1", "times": 1, "lost": 2}
    assert Erase(keys=("blobs/x",)).to_row() == {"keys": ["blobs/x"]}
    done = StreamRange(source="src_1", shared={"cuts": [0, 1]}, range=0, stored=0)
    assert done.to_row() == {"source": "src_1", "shared": {"cuts": [0, 1]}, "range": 0, "stored": 0}


def test_the_row_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError):
        InspectHead.from_row({"blob": "blb_1"})


def test_a_table_that_lacks_a_kind_can_not_be_made() -> None:
    every = dict.fromkeys(JobKind, 1)
    assert every_kind(every) == every
    del every[JobKind.ERASE], every[JobKind.HASH]
    with pytest.raises(LookupError, match="ERASE, HASH"):
        every_kind(every)


def test_conversions_are_what_turns_are_taken_for() -> None:
    assert CONVERSIONS == {JobKind.CONVERT, JobKind.STREAM_RANGE, JobKind.ASSEMBLE}
