"""The plan of a result by reference: for every map, its parts have lengths that a store accepts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.limits import PartRules
from workers.qcow2.clusters import Runs
from workers.qcow2.extents import Extents
from workers.store.parts import Piece, Reference, TooScattered, cut, refer

KiB = 1 << 10
RULES = PartRules(least=20 * KiB, most=200 * KiB, count=40, copied=50 * KiB, gap=8 * KiB)
SIZE = 4 * KiB


def extents_of(*runs: tuple[int, int, int]) -> Extents:
    extents = Extents()
    for run in runs:
        extents.add(*run)
    return extents


@st.composite
def maps(draw: st.DrawFn) -> tuple[Extents, int, int]:
    """A map of clusters, the disk's size and the source's, which may end within its last cluster."""
    count = draw(st.integers(1, 120))
    used = sorted(draw(st.sets(st.integers(0, count - 1), min_size=1)))
    keep_order = draw(st.booleans())
    order = used if keep_order else draw(st.permutations(used))
    places: dict[int, int] = {}
    place = draw(st.integers(0, 3))
    for cluster in order:
        places[cluster] = place
        place += 1 + draw(st.sampled_from([0, 0, 0, 0, 0, 1, 5, 30]))
    virtual_size = count * SIZE - draw(st.integers(0, 7)) * 512
    extents = Extents()
    for cluster in used:
        extents.add(cluster * SIZE, min(SIZE, virtual_size - cluster * SIZE), places[cluster] * SIZE)
    last = max(places.values()) * SIZE
    source_size = last + draw(st.integers(1, 8)) * 512
    return extents, virtual_size, source_size


def clusters(extents: Extents) -> dict[int, int]:
    """The place in a file of each cluster of a disk."""
    return {start + done: offset + done for start, length, offset in extents for done in range(0, length, SIZE)}


@given(made=maps())
def test_every_cluster_comes_to_where_the_new_map_says(made: tuple[Extents, int, int]) -> None:
    extents, virtual_size, source_size = made
    try:
        plan = refer(extents, virtual_size, SIZE, source_size, RULES)
    except TooScattered:
        return
    assert_parts_are_taken(plan, source_size)
    layout = plan.layout
    assert layout.cluster_size + layout.tables_size <= plan.front - sum(
        _room(moved.length) for moved in plan.relocations
    )
    assert isinstance(layout.clusters, Runs)
    before, after = clusters(extents), clusters(layout.clusters.extents)
    assert before.keys() == after.keys()
    assert len(set(after.values())) == len(after)
    held = {
        moved.target + done: moved.source + done for moved in plan.relocations for done in range(0, moved.length, SIZE)
    }
    at = plan.front
    for piece in plan.pieces:
        # A piece need not begin at a cluster, but follows the one before as in the source.
        first = -(-piece.offset // SIZE) * SIZE
        held |= {at + place - piece.offset: place for place in range(first, piece.offset + piece.length, SIZE)}
        at += piece.length
    assert at == plan.file_size
    assert {start: held[place] for start, place in after.items()} == before


def _room(length: int) -> int:
    return -(-length // SIZE) * SIZE


def assert_parts_are_taken(plan: Reference, source_size: int) -> None:
    lengths = [plan.front, *(piece.length for piece in plan.pieces)]
    assert len(lengths) <= RULES.count
    assert all(RULES.least <= length <= RULES.most for length in lengths[:-1])
    assert 0 < lengths[-1] <= RULES.most
    assert all(0 <= piece.offset and piece.offset + piece.length <= source_size for piece in plan.pieces)


def test_what_fits_into_the_first_part_is_sent_with_it() -> None:
    plan = refer(extents_of((0, 2 * SIZE, 10 * SIZE), (8 * SIZE, SIZE, 0)), 9 * SIZE, SIZE, 12 * SIZE, RULES)
    assert plan.pieces == []
    assert [(moved.source, moved.length) for moved in plan.relocations] == [(10 * SIZE, 2 * SIZE), (0, SIZE)]
    # Header, one cluster each of L1, L2, refcount table and refcounts, and the data.
    assert plan.file_size == plan.front == (5 + 3) * SIZE


def test_an_empty_disk_is_tables_alone() -> None:
    plan = refer(Extents(), 100 * SIZE, SIZE, SIZE, RULES)
    assert (plan.pieces, plan.relocations) == ([], [])
    assert plan.front == plan.layout.file_size


def test_data_far_from_one_another_in_runs_too_short_for_parts_is_not_referred_to() -> None:
    runs = [(index * SIZE, SIZE, index * 40 * SIZE) for index in range(20)]
    with pytest.raises(TooScattered):
        refer(extents_of(*runs), 20 * SIZE, SIZE, 800 * SIZE, RULES)


def test_more_data_than_all_parts_can_hold_is_not_referred_to() -> None:
    rules = PartRules(least=20 * KiB, most=40 * KiB, count=3, copied=40 * KiB)
    with pytest.raises(TooScattered):
        refer(extents_of((0, 100 * SIZE, 0)), 100 * SIZE, SIZE, 100 * SIZE, rules)


def test_tables_longer_than_a_part_are_not_built() -> None:
    rules = PartRules(least=20 * KiB, most=40 * KiB, count=40, copied=40 * KiB)
    far = 512 * SIZE
    runs = [(index * far, SIZE, index * SIZE) for index in range(12)]
    with pytest.raises(TooScattered, match="tables"):
        refer(extents_of(*runs), 12 * far, SIZE, 12 * SIZE, rules)


@given(length=st.integers(0, 3000), begin=st.integers(0, 100))
def test_a_range_is_cut_into_pieces_that_are_taken(length: int, begin: int) -> None:
    rules = PartRules(least=5, most=500, count=12, copied=40)
    pieces = cut(begin, begin + length, rules)
    assert len(pieces) < rules.count
    assert [piece.offset for piece in pieces] == [begin + sum(p.length for p in pieces[:i]) for i in range(len(pieces))]
    assert sum(piece.length for piece in pieces) == length
    assert all(rules.least <= piece.length <= rules.most for piece in pieces[:-1])
    assert all(piece.length > 0 for piece in pieces)


def test_a_short_range_is_one_piece() -> None:
    assert cut(3, 7, RULES) == [Piece(3, 4)]
