"""What a conversion has made that overruns the quota is freed by its worker, as long as the job is its own."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from app.boot_readiness.report import BootReadiness
from app.catalog import conversions
from app.catalog.catalogue import Catalogue
from app.catalog.conversions import Assignment
from app.catalog.outcome import Outcome, Way
from app.catalog.work.jobs import Claim
from app.errors import ImageFailed, LeaseLost, StoreUnavailable
from app.lifecycle import SETTLED, DiskFormat, FailureCode, ImageStatus
from app.models import Image, Job, Project, Source, now
from app.sizes import MIB
from tests.app.conftest import StartGateway
from tests.support.gateway import Gateway, until
from tests.support.overrunning import limited, see_room, storage
from tests.workers.images import make, qemu_img, raw_disk
from workers.errors import Cancelled
from workers.inspection.refusals import over_quota
from workers.jobs.conversions import Conversions
from workers.jobs.converters import Order, StoredBlob

pytestmark = pytest.mark.anyio


@dataclass
class Scripted:
    """A converter that makes what it is told to, and notes what is undone. `meanwhile` happens as it converts."""

    made: Outcome | ImageFailed
    meanwhile: Callable[[], Any] = lambda: None
    undoing: list[Exception] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    ranges: None = None

    def convert(self, order: Order) -> Outcome:
        self.meanwhile()
        if isinstance(self.made, ImageFailed):
            raise self.made
        return self.made

    def undo(self, order: Order) -> None:
        if self.undoing:
            raise self.undoing.pop()
        self.undone.append(order.assignment.result_key)

    def check_boot(self, blob: StoredBlob, cancelled: threading.Event) -> BootReadiness:
        raise AssertionError

    def leftovers(self, result_key: str) -> list[str]:
        return []

    def close(self) -> None:
        pass


LARGE = Outcome(Way.COPY, DiskFormat.RAW, 4 * MIB, 3 * MIB, 3 * MIB)


async def waiting(gateway: Gateway) -> tuple[str, Claim[Any]]:
    """An image that is too large for its project, and the claim of a worker."""
    image = await gateway.uploaded(projectId=await limited(gateway, 2 * MIB))
    return image["id"], await gateway.claim(image["id"])


@pytest.mark.parametrize("made", [LARGE, over_quota()], ids=["in-the-end", "early"])
async def test_what_was_made_is_freed_before_the_image_is_in_error(
    gateway: Gateway, made: Outcome | ImageFailed
) -> None:
    image, claim = await waiting(gateway)
    converter = Scripted(made, undoing=[StoreUnavailable("away")])
    worker = Conversions(gateway.catalogue, gateway.wakeups, converter)
    with pytest.raises(StoreUnavailable):
        await worker.convert(claim, threading.Event())
    assert (await gateway.image(image)).status == ImageStatus.SAVING
    await worker.convert(claim, threading.Event())
    row = await gateway.image(image)
    assert (row.status, row.failure_code) == (ImageStatus.ERROR, FailureCode.QUOTA_EXCEEDED)
    assert converter.undone == [(await source_of(gateway, image)).key_of_result]


async def source_of(gateway: Gateway, image: str) -> Source:
    async with gateway.database.read() as session:
        return (await session.execute(select(Source).where(Source.image_id == image))).scalar_one()


@pytest.mark.parametrize("made", [LARGE, over_quota()], ids=["in-the-end", "early"])
async def test_a_worker_that_has_lost_its_lease_frees_nothing(gateway: Gateway, made: Outcome | ImageFailed) -> None:
    image, claim = await waiting(gateway)
    loop = asyncio.get_running_loop()

    def lose() -> None:
        change = gateway.change(Job, claim.job_id, token=claim.token + 1)
        asyncio.run_coroutine_threadsafe(change, loop).result()

    converter = Scripted(made, lose)
    worker = Conversions(gateway.catalogue, gateway.wakeups, converter)
    with pytest.raises(LeaseLost):
        await worker.convert(claim, threading.Event())
    assert converter.undone == []
    assert (await gateway.image(image)).status == ImageStatus.SAVING


async def test_a_worker_that_was_told_to_stop_frees_nothing(gateway: Gateway) -> None:
    image, claim = await waiting(gateway)
    cancelled = threading.Event()
    converter = Scripted(LARGE, cancelled.set)
    worker = Conversions(gateway.catalogue, gateway.wakeups, converter)
    with pytest.raises(Cancelled):
        await worker.convert(claim, cancelled)
    assert converter.undone == []
    assert (await gateway.image(image)).status == ImageStatus.SAVING


async def test_the_lease_is_renewed_before_anything_is_freed(gateway: Gateway) -> None:
    _, claim = await waiting(gateway)
    long_ago = now() - timedelta(days=1)
    converter = Scripted(LARGE, undoing=[StoreUnavailable("away")])
    worker = Conversions(gateway.catalogue, gateway.wakeups, converter)
    await gateway.change(Job, claim.job_id, lease_until=long_ago)
    with pytest.raises(StoreUnavailable):
        await worker.convert(claim, threading.Event())
    (job,) = [job for job in await gateway.all_jobs() if job.id == claim.job_id]
    assert job.lease_until is not None
    assert job.lease_until > now()


async def test_a_failure_of_another_kind_frees_nothing(gateway: Gateway) -> None:
    image, claim = await waiting(gateway)
    converter = Scripted(ImageFailed(FailureCode.CORRUPT_IMAGE, "It is broken.", "Mend it."))
    worker = Conversions(gateway.catalogue, gateway.wakeups, converter)
    await worker.convert(claim, threading.Event())
    assert (await gateway.image(image)).failure_code == FailureCode.CORRUPT_IMAGE
    assert converter.undone == []


# ------------------------------------------------------------ all of it


def image_file(way: Way, folder: Path) -> tuple[Path, Path, DiskFormat]:
    """A raw disk, an image of it that goes this way and becomes larger by that, and its format."""
    if way is Way.COPY:
        raw = folder / "disk.raw"
        raw.write_bytes(b"\1" * 8 * MIB)
        return raw, make(raw, folder / "image", "vmdk", subformat="streamOptimized"), DiskFormat.VMDK
    raw = raw_disk(folder / "disk.raw", MIB + 512, [(0, MIB + 512)])
    if way is Way.REFERENCE:
        return raw, raw, DiskFormat.RAW
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", str(raw), str(folder / "image"))
    return raw, folder / "image", DiskFormat.QCOW2


@pytest.mark.needs_program("qemu-img")
@pytest.mark.parametrize("late", [False, True], ids=["early", "in-the-end"])
@pytest.mark.parametrize("way", Way)
async def test_an_image_that_overruns_keeps_its_upload_and_is_active_once_there_is_room(
    start_gateway: StartGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way, late: bool
) -> None:
    raw, path, format_ = image_file(way, tmp_path)
    content = path.read_bytes()
    ends = noted_ends(monkeypatch)
    if late:
        see_room(monkeypatch)
    async with start_gateway() as gateway:
        project = await limited(gateway, len(content))
        upload = {"fileName": "disk", "format": format_}
        image = (await gateway.uploaded(content, projectId=project, upload=upload))["id"]
        key = (await source_of(gateway, image)).key
        async with gateway.working():
            row = await settled(gateway, image)
            assert (row.status, row.failure_code) == (ImageStatus.ERROR, FailureCode.QUOTA_EXCEEDED)
            assert ends == ([image] if late else [])
            await until(gateway.idle)
            assert gateway.files() == [f"objects/{key}"]
            assert gateway.store.path(key).read_bytes() == content
            assert await storage(gateway, project) == (0, len(content))
            await gateway.change(Project, project, image_storage_limit=100 * MIB)
            await gateway.mutate("retryImage", {"imageId": image})
            row = await settled(gateway, image)
            assert (row.status, row.reserved_size) == (ImageStatus.ACTIVE, 0)
            await until(gateway.idle)
        (result,) = gateway.files()
        qemu_img("compare", "-f", "raw", "-F", "qcow2", str(raw), str(gateway.settings.objects_path / result))
        assert await storage(gateway, project) == (row.stored_size, 0)


def noted_ends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images whose conversions have come to a result that may be too large."""
    ends: list[str] = []
    real = conversions.succeed

    async def succeed(catalogue: Catalogue, claim: Claim[Any], assignment: Assignment, outcome: Outcome) -> None:
        ends.append(assignment.image_id)
        await real(catalogue, claim, assignment, outcome)

    monkeypatch.setattr(conversions, "succeed", succeed)
    return ends


async def settled(gateway: Gateway, image: str) -> Image:
    async def ended() -> bool:
        return (await gateway.image(image)).status in SETTLED

    await until(ended)
    return await gateway.image(image)
