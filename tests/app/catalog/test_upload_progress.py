"""Polling of uploads whose bytes go straight to the store: news is published, and what stands still is left alone."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.catalog.upload_progress import UploadPolling
from app.lifecycle import ImagePhase
from app.ports import ProgressReport
from app.sizes import MIB
from tests.app.conftest import StartGateway
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio


@dataclass
class Heard:
    """Wake-ups that are kept."""

    reports: list[ProgressReport] = field(default_factory=list)

    def feed_grew(self) -> None:
        raise AssertionError("nothing is written")

    def progressed(self, report: ProgressReport) -> None:
        self.reports.append(report)

    async def listen(self) -> AsyncIterator[ProgressReport | None]:
        yield None

    def take(self) -> list[tuple[str, int, int | None]]:
        told = [(report.image_id, report.bytes_done, report.bytes_total) for report in self.reports]
        assert all(report.phase == ImagePhase.UPLOADING for report in self.reports)
        self.reports.clear()
        return told


@dataclass
class Clock:
    now: float = 0

    def __call__(self) -> float:
        return self.now


async def test_what_has_arrived_since_the_last_look_is_told_once(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        heard, clock = Heard(), Clock()
        upload_polling = UploadPolling(gateway.catalogue, heard, 1.0, clock)
        image = await _two_parts(gateway)
        await upload_polling.poll()
        assert heard.take() == []
        await gateway.send(image, bytes(17 * MIB), [1])
        clock.now += 2
        await upload_polling.poll()
        assert heard.take() == [(image["id"], 16 * MIB, 17 * MIB)]
        clock.now += 1
        await upload_polling.poll()
        assert heard.take() == []


async def test_an_upload_that_stands_still_is_asked_about_ever_less_often(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        heard, clock = Heard(), Clock()
        upload_polling = UploadPolling(gateway.catalogue, heard, 1.0, clock)
        image = await _two_parts(gateway)
        for _ in range(5):
            await upload_polling.poll()
            clock.now += 30
        await gateway.send(image, bytes(17 * MIB), [1])
        clock.now += 1 - 30
        await upload_polling.poll()
        assert heard.take() == []
        clock.now += 60
        await upload_polling.poll()
        assert heard.take() == [(image["id"], 16 * MIB, 17 * MIB)]


async def test_an_upload_that_has_ended_is_forgotten(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        heard, clock = Heard(), Clock()
        upload_polling = UploadPolling(gateway.catalogue, heard, 1.0, clock)
        image = await _two_parts(gateway)
        await gateway.send(image, bytes(17 * MIB), [1])
        await gateway.mutate("abortUpload", {"uploadId": image["upload"]["id"]})
        clock.now += 100
        await upload_polling.poll()
        assert heard.take() == []


async def _two_parts(gateway: Gateway) -> dict[str, Any]:
    return await gateway.create(upload={"size": 17 * MIB})
