"""Watchers are told the newest progress of a conversion, and not every report of it."""

import asyncio

import pytest

from app.adapters.messaging.local_wakeups import LocalWakeups
from app.lifecycle import ImagePhase
from app.ports import ProgressReport
from workers.jobs.progress import ProgressReporter

pytestmark = pytest.mark.anyio


class Heard(LocalWakeups):
    """Wake-ups that are kept here."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[ProgressReport] = []
        self.came = asyncio.Event()

    def progressed(self, report: ProgressReport) -> None:
        self.reports.append(report)
        self.came.set()


async def test_of_all_reports_of_one_turn_the_newest_is_told_once() -> None:
    heard = Heard()
    telling = ProgressReporter(heard, "img", "prj", seconds=0.01)
    async with telling.regularly():
        telling.report(ImagePhase.INSPECTING, 0, 10)
        telling.report(ImagePhase.CONVERTING, 1, 10)
        telling.report(ImagePhase.CONVERTING, 7, 10)
        await asyncio.wait_for(heard.came.wait(), 10)
        heard.came.clear()
        telling.report(ImagePhase.VERIFYING, 10, 10)
        await asyncio.wait_for(heard.came.wait(), 10)

    told = [(report.phase, report.bytes_done) for report in heard.reports]
    assert told == [(ImagePhase.CONVERTING, 7), (ImagePhase.VERIFYING, 10)]


async def test_what_is_over_before_its_turn_is_not_told() -> None:
    heard = Heard()
    telling = ProgressReporter(heard, "img", "prj", seconds=60)
    async with telling.regularly():
        telling.report(ImagePhase.CONVERTING, 1, 10)

    assert heard.reports == []
