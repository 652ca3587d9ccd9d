"""How far images are: the newest report counts, and none after the end; and how bytes that arrive are reported."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from app.adapters.messaging.local_wakeups import LocalWakeups
from app.catalog.feed.progress import ProgressBoard, Throttle
from app.catalog.upload_progress import UploadMeter
from app.lifecycle import ImagePhase
from app.ports import ProgressReport
from app.sizes import MIB
from tests.support.gateway import Gateway

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def report(
    second: float,
    done: int = 0,
    total: int | None = 100,
    *,
    image: str = "img",
    phase: ImagePhase = ImagePhase.CONVERTING,
) -> ProgressReport:
    return ProgressReport(image, "prj", phase, done, total, NOON + timedelta(seconds=second))


def test_of_several_reports_the_newest_counts() -> None:
    board = ProgressBoard()
    assert board.put(report(1, 10))
    assert board.put(report(3, 30))
    assert not board.put(report(2, 20))
    known = board.of("img")
    assert known is not None
    assert (known.report.bytes_done, known.percent) == (30, 30.0)


def test_what_comes_after_the_end_is_not_believed_unless_it_was_made_later() -> None:
    board = ProgressBoard()
    board.put(report(1, 10))
    board.settle("img", NOON + timedelta(seconds=5))
    assert board.of("img") is None
    assert not board.put(report(4, 90))
    assert not board.put(report(5, 100))
    assert board.of("img") is None
    assert board.put(report(6, 1))


def test_the_time_left_follows_from_the_speed_of_the_phase() -> None:
    board = ProgressBoard()
    board.put(report(0, 10, phase=ImagePhase.INSPECTING))
    board.put(report(10, 0))
    first = board.of("img")
    assert first is not None
    assert first.eta_seconds is None
    board.put(report(20, 25))
    known = board.of("img")
    assert known is not None
    assert known.eta_seconds == 30


@pytest.mark.parametrize(("done", "total", "percent"), [(5, None, 0.0), (0, 0, 0.0), (1, 3, 33.3), (3, 3, 100.0)])
def test_the_percentage_of_what_has_no_size_is_none(done: int, total: int | None, percent: float) -> None:
    board = ProgressBoard()
    board.put(report(0, done, total))
    known = board.of("img")
    assert known is not None
    assert known.percent == percent
    assert known.eta_seconds is None


def test_only_what_is_newer_is_read_the_newest_first() -> None:
    board = ProgressBoard()
    for second, image in enumerate(("a", "b", "c", "a")):
        board.put(report(second, image=image))
    assert [known.report.image_id for known in board.newer_than(0)] == ["a", "c", "b"]
    assert [known.report.image_id for known in board.newer_than(3)] == ["a"]
    assert list(board.newer_than(board.version)) == []


def test_a_board_forgets_the_oldest_when_it_is_full() -> None:
    board = ProgressBoard()
    for at in range(10_001):
        board.put(report(at, image=f"img {at}"))
        board.settle(f"done {at}", NOON)
    assert board.of("img 0") is None
    assert board.of("img 1") is not None
    assert len(board._settled) == 10_000


def test_a_throttle_lets_one_report_of_an_image_through_in_its_time() -> None:
    time = iter([10.0, 10.4, 10.5, 10.6, 10.7])
    throttle = Throttle(0.5, lambda: next(time))
    assert throttle.passes("img")
    assert not throttle.passes("img")
    assert throttle.passes("img")
    assert throttle.passes("other")
    throttle.forget("img")
    assert throttle.passes("img")


# ---------------------------------------------------------------- bytes that arrive


@asynccontextmanager
async def heard(wakeups: LocalWakeups) -> AsyncIterator[AsyncIterator[ProgressReport | None]]:
    """What is told from now on."""
    news = wakeups.listen()
    listening = asyncio.ensure_future(anext(news))
    await asyncio.sleep(0)  # the listener is there once it has begun to wait

    async def told() -> AsyncIterator[ProgressReport | None]:
        yield await listening
        async for item in news:
            yield item

    try:
        yield told()
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await news.aclose()  # type: ignore[attr-defined]


@pytest.mark.anyio
async def test_bytes_that_arrive_are_reported_with_those_that_had_come_before(gateway: Gateway) -> None:
    image = await gateway.create(upload={"size": 20 * MIB})
    await gateway.send(image, bytes(20 * MIB), [2])
    wakeups = LocalWakeups()
    meter = UploadMeter(gateway.catalogue, wakeups, Throttle(0))
    async with heard(wakeups) as news, asyncio.timeout(20):
        reports = []
        for count in (0, MIB, 2 * MIB, 40 * MIB):
            meter.arrived(await gateway.source_key(image), count)
            reports.append(await anext(news))
    assert [made and (made.image_id, made.phase, made.bytes_done, made.bytes_total) for made in reports] == [
        (image["id"], ImagePhase.UPLOADING, done, 20 * MIB) for done in (4 * MIB, 5 * MIB, 7 * MIB, 20 * MIB)
    ]


@pytest.mark.anyio
async def test_bytes_of_an_unknown_upload_are_not_reported(gateway: Gateway) -> None:
    image = await gateway.create()
    wakeups = LocalWakeups()
    meter = UploadMeter(gateway.catalogue, wakeups, Throttle(0))
    async with heard(wakeups) as news, asyncio.timeout(20):
        meter.arrived("uploads/unknown", 5)
        await asyncio.gather(*meter._reporting)
        meter.arrived(await gateway.source_key(image), 5)
        known = await anext(news)
    assert known is not None
    assert known.image_id == image["id"]
