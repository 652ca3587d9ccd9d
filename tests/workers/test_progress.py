"""Watchers get the newest progress of a conversion, not every report."""

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


async def test_the_newest_of_all_reports_in_an_interval_is_published_once() -> None:
    heard = Heard()
    reporter = ProgressReporter(heard, "img", "prj", seconds=0.01)
    async with reporter.regularly():
        reporter.report(ImagePhase.INSPECTING, 0, 10)
        reporter.report(ImagePhase.CONVERTING, 1, 10)
        reporter.report(ImagePhase.CONVERTING, 7, 10)
        await asyncio.wait_for(heard.came.wait(), 10)
        heard.came.clear()
        reporter.report(ImagePhase.VERIFYING, 10, 10)
        await asyncio.wait_for(heard.came.wait(), 10)

    published = [(report.phase, report.bytes_done) for report in heard.reports]
    assert published == [(ImagePhase.CONVERTING, 7), (ImagePhase.VERIFYING, 10)]


async def test_a_conversion_that_ends_within_an_interval_publishes_nothing() -> None:
    heard = Heard()
    reporter = ProgressReporter(heard, "img", "prj", seconds=60)
    async with reporter.regularly():
        reporter.report(ImagePhase.CONVERTING, 1, 10)

    assert heard.reports == []
