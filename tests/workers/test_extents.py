"""Maps of extents: checked, cleared of holes, and moved out of the way."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.images import KiB, MiB, raw_disk
from workers.qcow2.extents import (
    COARSEST_CLUSTER,
    DoubtfulMap,
    Extents,
    Relocation,
    TooManyExtents,
    Truncated,
    check,
    cluster_size_for,
    fitting_cluster,
    relocate,
    without_holes,
)

K64 = 64 * KiB
TiB = 1 << 40

Run = tuple[int, int, int]


def extents_of(*runs: Run) -> Extents:
    extents = Extents()
    for run in runs:
        extents.add(*run)
    return extents


def test_runs_that_continue_each_other_become_one() -> None:
    assert list(extents_of((0, K64, K64), (K64, K64, 2 * K64))) == [(0, 2 * K64, K64)]
    assert len(extents_of((0, K64, K64), (K64, K64, 3 * K64))) == 2
    assert len(extents_of((0, K64, K64), (2 * K64, K64, 2 * K64))) == 2


@pytest.mark.parametrize(
    ("runs", "error"),
    [
        ([(0, K64, 0), (0, K64, K64)], DoubtfulMap),
        ([(K64, K64, 0), (0, K64, K64)], DoubtfulMap),
        ([(0, 0, 0)], DoubtfulMap),
        ([(MiB, K64, 0)], DoubtfulMap),
        ([(MiB - 512, 1024, 0)], DoubtfulMap),
        ([(0, K64, 0), (2 * K64, K64, 0)], DoubtfulMap),
        ([(0, 2 * K64, K64), (4 * K64, K64, 2 * K64)], DoubtfulMap),
        ([(0, K64, 2 * MiB - 512)], Truncated),
        ([(0, K64, 1 << 62)], Truncated),
    ],
)
def test_a_map_that_contradicts_itself_or_its_file_is_not_used(runs: list[Run], error: type[Exception]) -> None:
    with pytest.raises(error):
        check(extents_of(*runs), MiB, 2 * MiB)


def test_a_sound_map_passes() -> None:
    check(extents_of((0, K64, MiB), (K64, K64, 0), (MiB - K64, K64, 2 * MiB - K64)), MiB, 2 * MiB)
    check(Extents(), MiB, 0)


@pytest.mark.parametrize(
    ("runs", "fits"),
    [
        ([(0, MiB, 0)], K64),
        ([(0, MiB, 32 * KiB)], 32 * KiB),
        ([(4 * KiB, 4 * KiB, 0)], 4 * KiB),
        ([(0, MiB, 2 * KiB)], None),
        ([(0, MiB, 512)], None),
        ([(0, MiB + 512, 0), (2 * MiB, K64, 2 * MiB)], None),
        ([(0, K64, 0), (2 * MiB, 3 * MiB - 512, 2 * MiB)], K64),
        ([], K64),
    ],
)
def test_the_cluster_is_as_large_as_the_alignment_allows(runs: list[Run], fits: int | None) -> None:
    assert fitting_cluster(extents_of(*runs), 5 * MiB - 512) == fits


def test_large_disks_get_large_clusters_so_that_their_tables_stay_small() -> None:
    assert cluster_size_for(TiB) == K64
    assert cluster_size_for(TiB + 512) == 2 * K64
    assert cluster_size_for(16 * TiB) == MiB
    assert cluster_size_for(1 << 60) == COARSEST_CLUSTER
    assert fitting_cluster(extents_of((0, 8 * MiB, MiB)), 16 * TiB) == MiB
    assert fitting_cluster(extents_of((0, 8 * MiB, K64)), 16 * TiB) == K64


def test_holes_of_the_file_are_left_out_in_whole_grains(tmp_path: Path) -> None:
    path = raw_disk(tmp_path / "file", 4 * MiB, [(MiB + 4096, 4096), (MiB + 3 * K64, K64), (4 * MiB - 4096, 4096)])
    fd = os.open(path, os.O_RDONLY)
    try:
        found = without_holes(fd, extents_of((7 * MiB, 4 * MiB - 512, 0)), K64, 10)
        assert list(found) == [
            (8 * MiB, K64, MiB),
            (8 * MiB + 3 * K64, K64, MiB + 3 * K64),
            (11 * MiB - K64, K64 - 512, 4 * MiB - K64),
        ]
        with pytest.raises(TooManyExtents):
            without_holes(fd, extents_of((0, 4 * MiB, 0)), K64, 2)
    finally:
        os.close(fd)


@given(
    runs=st.lists(st.tuples(st.integers(0, 250), st.integers(1, 8)), max_size=12),
    shift=st.integers(0, 4),
    size=st.integers(1, 260),
)
def test_leaving_holes_out_loses_no_data(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, int]], shift: int, size: int
) -> None:
    path = tmp_path_factory.mktemp("holes") / "file"
    content = bytearray((size + 4 * 16) * 4096)
    with path.open("wb") as file:
        for place, length in runs:
            data = b"d" * min(length * 4096, max(0, len(content) - place * 4096))
            if data:
                file.seek(place * 4096)
                file.write(data)
                content[place * 4096 : place * 4096 + len(data)] = data
        file.truncate(len(content))
    fd = os.open(path, os.O_RDONLY)
    offset = shift * 16 * 4096
    whole = extents_of((0, min(size * 4096, len(content) - offset), offset))
    try:
        found = without_holes(fd, whole, K64, 1000)
    finally:
        os.close(fd)
    check(found, size * 4096, len(content))
    seen = bytearray(whole.lengths[0])
    for start, length, place in found:
        assert place - start == offset
        assert start % K64 == 0
        seen[start : start + length] = content[place : place + length]
    assert seen == content[offset : offset + len(seen)]


def test_data_in_the_first_cluster_and_a_last_half_cluster_are_moved() -> None:
    extents = extents_of((0, 3 * K64, 0), (8 * K64, K64 + 512, 4 * K64))
    moved, copies, free_at = relocate(extents, K64, 10 * K64)
    assert copies == [Relocation(0, K64, 10 * K64), Relocation(5 * K64, 512, 11 * K64)]
    assert list(moved) == [
        (0, K64, 10 * K64),
        (K64, 2 * K64, K64),
        (8 * K64, K64, 4 * K64),
        (9 * K64, 512, 11 * K64),
    ]
    assert free_at == 12 * K64


def test_a_disk_smaller_than_a_cluster_is_moved_out_of_the_first_one() -> None:
    moved, copies, free_at = relocate(extents_of((0, 512, 0)), K64, K64)
    assert list(moved) == [(0, 512, K64)]
    assert copies == [Relocation(0, 512, K64)]
    assert free_at == 2 * K64
