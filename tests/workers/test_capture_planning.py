"""Which clusters of a base are copied, and what is read of a point, decided without a store."""

from dataclasses import replace

from app.sizes import KIB, TIB
from workers.capture.bases import BaseImage
from workers.capture.planning import CopyRules, plan_capture
from workers.capture.points import PointMap
from workers.qcow2.clusters import COMPRESSED
from workers.qcow2.composed import CompressedClusters
from workers.qcow2.extents import Extents
from workers.store.parts import Piece

UNIT = 64 * KIB
SECTORS_AT = 62 - 8


def runs(*found: tuple[int, int, int]) -> Extents:
    extents = Extents()
    for start, length, offset in found:
        extents.add(start, length, offset)
    return extents


def compressed(*found: tuple[int, int, int]) -> CompressedClusters:
    """Clusters by their number, the byte where they begin, and the number of further sectors."""
    clusters = CompressedClusters(UNIT)
    for number, begin, more in found:
        clusters.add(number, COMPRESSED | more << SECTORS_AT | begin)
    return clusters


def base(size: int, plain: Extents, packed: CompressedClusters | None = None, file_size: int = 1 << 30) -> BaseImage:
    return BaseImage(size, size, file_size, UNIT, plain, packed or CompressedClusters(UNIT))


def test_a_cluster_whose_last_sector_has_the_first_bytes_of_a_deleted_one_is_read() -> None:
    # The second begins within the last sector of the first.
    packed = compressed((0, 5 * UNIT, 1), (1, 5 * UNIT + 900, 1), (2, 6 * UNIT, 127))
    point = PointMap(3 * UNIT, base=runs((0, UNIT, 0), (2 * UNIT, UNIT, 2 * UNIT)))

    plan = plan_capture(point, base(3 * UNIT, Extents(), packed), CopyRules(gap=UNIT))

    assert list(plan.read) == [(0, UNIT, 0)]
    assert [number for number, _ in plan.compressed] == [2]
    assert plan.ranges == [Piece(6 * UNIT, UNIT)]


def test_the_last_cluster_is_read_if_the_disk_ends_in_it() -> None:
    """What follows the end of the disk in the base's file would appear when somebody enlarges the image."""
    size = 4 * UNIT + 512
    plan = plan_capture(PointMap(size, base=runs((0, size, 0))), base(size, runs((0, 5 * UNIT, UNIT))), CopyRules())
    assert plan.ranges == [Piece(UNIT, 4 * UNIT)]
    assert list(plan.read) == [(4 * UNIT, 512, 4 * UNIT)]


def test_a_cluster_that_the_file_does_not_hold_as_a_whole_is_read() -> None:
    size = 4 * UNIT
    plan = plan_capture(
        PointMap(size, base=runs((0, size, 0))), base(size, runs((0, size, UNIT)), file_size=4 * UNIT + 5), CopyRules()
    )
    assert plan.ranges == [Piece(UNIT, 3 * UNIT)]
    assert list(plan.read) == [(3 * UNIT, UNIT, 3 * UNIT)]


def test_a_gap_is_copied_only_if_it_is_known_to_hold_no_data_of_the_base() -> None:
    mapped = runs((0, UNIT, UNIT), (UNIT, UNIT, 4 * UNIT))
    point = PointMap(9 * UNIT, base=runs((0, 9 * UNIT, 0)))
    rules = CopyRules(gap=2 * UNIT)
    assert plan_capture(point, base(9 * UNIT, mapped), rules).ranges == [Piece(UNIT, 4 * UNIT)]

    known_in_part = replace(base(9 * UNIT, mapped), mapped=2 * UNIT)

    plan = plan_capture(point, known_in_part, rules)
    assert plan.ranges == [Piece(UNIT, UNIT), Piece(4 * UNIT, UNIT)]
    assert list(plan.read) == [(2 * UNIT, 7 * UNIT, 2 * UNIT)]


def test_only_the_longest_ranges_are_copied_where_there_are_too_many() -> None:
    mapped = runs((0, UNIT, UNIT), (UNIT, 3 * UNIT, 9 * UNIT), (4 * UNIT, 2 * UNIT, 3 * UNIT))
    point = PointMap(8 * UNIT, base=runs((0, 6 * UNIT, 0)), data=runs((6 * UNIT, 100, 6 * UNIT)))
    plan = plan_capture(point, base(6 * UNIT, mapped), CopyRules(count=2))
    assert plan.ranges == [Piece(3 * UNIT, 2 * UNIT), Piece(9 * UNIT, 3 * UNIT)]
    assert list(plan.read) == [(0, UNIT, 0), (6 * UNIT, 100, 6 * UNIT)]
    [plain, _] = plan.placed(UNIT)
    assert list(plain.references()) == [(1, 2, 1), (3, 3, 1)]


def test_a_disk_that_is_too_large_for_the_clusters_of_its_base_is_read() -> None:
    tiny = BaseImage(UNIT, UNIT, 1 << 20, 4 * KIB, runs((0, UNIT, UNIT)), CompressedClusters(4 * KIB))
    point = PointMap(16 * TIB, base=runs((0, UNIT, 0)))
    plan = plan_capture(point, tiny, CopyRules())
    assert (plan.cluster_size, plan.ranges, list(plan.read)) == (1024 * KIB, [], [(0, UNIT, 0)])
