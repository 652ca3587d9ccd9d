"""Boot readiness in the catalogue: found once for the bytes, and shown for each image that has them."""

import threading
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, cast

import pytest

from app.boot_readiness.report import BootReadiness, Note, Support
from app.catalog import findings
from app.errors import LeaseLost, StoreUnavailable
from app.lifecycle import Architecture, ImageStatus, JobKind, JobState
from app.models import Blob, Image, Job, now
from tests.support.booting import READINESS, READY, find, known, shown
from tests.support.gateway import Gateway
from tests.support.sharing import done
from workers.jobs.converters import Converter, StoredBlob
from workers.jobs.duties import Duties
from workers.jobs.runner import JobRunner

pytestmark = pytest.mark.anyio


async def copied(gateway: Gateway, image: dict[str, Any], project: str) -> dict[str, Any]:
    source = {"image": {"imageId": image["id"]}}
    made = await done(gateway, "createImage", give="image { id }", projectId=project, name="copy", source=source)
    return cast(dict[str, Any], made)


async def aspects(gateway: Gateway, image: dict[str, Any]) -> list[list[str]]:
    """What was published about an image since it became ACTIVE."""
    found = [event.detail.get("aspects", []) for event in await gateway.events(image["id"])]
    return [some for some in found if "BOOT_READINESS" in some]


async def unfinished(gateway: Gateway, kind: JobKind) -> list[Job]:
    return [job for job in await gateway.all_jobs() if job.kind == kind and job.state != JobState.DONE]


async def test_readiness_is_published_and_fills_what_the_owner_did_not_state(gateway: Gateway, project: str) -> None:
    image = await gateway.active(projectId=project, architecture=None)
    assert (await gateway.image(image["id"])).status == ImageStatus.ACTIVE
    assert await shown(gateway, image, f"os {{ family }} architecture {READINESS}") == {
        "os": None, "architecture": None, "bootReadiness": None,
    }  # fmt: skip
    await find(gateway, image, replace(READY, virtio_blk=Support.NOT_IN_INITRAMFS, notes=(Note.SEVERAL_SYSTEMS,)))
    found = await shown(gateway, image, f"os {{ displayName }} architecture {READINESS}")
    assert (found["os"], found["architecture"]) == ({"displayName": "Debian 12"}, "X86_64")
    readiness = found["bootReadiness"]
    assert readiness["virtioBlk"]["state"] == "NOT_IN_INITRAMFS"
    assert readiness["virtioBlk"]["message"]
    assert readiness["virtioBlk"]["hint"]
    assert readiness["virtioNet"] == {"state": "PRESENT", "hint": None}
    assert (readiness["cloudInit"], readiness["firmware"]) == ({"state": "MISSING"}, "BOTH")
    assert (readiness["os"], readiness["architecture"]) == ({"displayName": "Debian 12"}, "X86_64")
    assert len(readiness["notes"]) == 1
    assert (await aspects(gateway, image))[-1] == ["BOOT_READINESS", "OS", "ARCHITECTURE"]
    document = "query ($p: ID!) { imageEvents(projectId: $p, last: 1) { nodes { ... on ImageUpdated { fields } } } }"
    (event,) = (await gateway.ask(document, p=project))["imageEvents"]["nodes"]
    assert event == {"fields": ["bootReadiness", "os", "architecture"]}


async def test_what_the_owner_states_stays(gateway: Gateway, project: str) -> None:
    image = await gateway.active(projectId=project, os={"family": "rocky"}, architecture="X86_64")
    await find(gateway, image, replace(READY, architecture=Architecture.AARCH64))
    found = await shown(gateway, image, f"os {{ family version }} architecture {READINESS}")
    assert (found["os"], found["architecture"]) == ({"family": "rocky", "version": None}, "X86_64")
    assert found["bootReadiness"]["architecture"] == "AARCH64"
    assert (await aspects(gateway, image))[-1] == ["BOOT_READINESS"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_copies_have_the_readiness_of_their_bytes(gateway: Gateway, project: str, when: str) -> None:
    image = await gateway.active(projectId=project)
    copies = [await copied(gateway, image, project)] if when == "before" else []
    await find(gateway, image)
    copies = copies or [await copied(gateway, image, project)]
    fields = f"os {{ displayName }} {READINESS}"
    assert await shown(gateway, copies[0], fields) == await shown(gateway, image, fields)
    assert await aspects(gateway, copies[0]) == ([["BOOT_READINESS", "OS"]] if when == "before" else [])


async def test_every_one_of_many_copies_is_changed(
    gateway: Gateway, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "_AT_ONCE", 2)
    image = await gateway.active(projectId=project)
    copies = [await copied(gateway, image, project) for _ in range(3)]
    await find(gateway, image)
    assert [await aspects(gateway, one) for one in (image, *copies)] == [[["BOOT_READINESS", "OS"]]] * 4
    (job,) = [job for job in await gateway.all_jobs() if job.kind == "CHECK_READINESS" and job.image_id == image["id"]]
    assert job.state == JobState.DONE


async def test_what_is_found_out_about_bytes_is_for_copies_of_a_deleted_image_too(
    gateway: Gateway, project: str
) -> None:
    image = await gateway.active(projectId=project)
    copy = await copied(gateway, image, project)
    await gateway.mutate("deleteImage", {"imageId": image["id"]})
    await find(gateway, image)
    assert (await shown(gateway, copy, READINESS))["bootReadiness"] is not None
    await findings.keep_hash(gateway.catalogue, await gateway.claim(image["id"], JobKind.HASH), "0" * 64)
    assert (await gateway.image(copy["id"])).sha256 == "0" * 64


async def test_nothing_is_found_out_about_bytes_that_no_image_has(gateway: Gateway, project: str) -> None:
    image = await gateway.active(projectId=project)
    claim = await gateway.claim(image["id"], JobKind.CHECK_READINESS)
    await gateway.mutate("deleteImage", {"imageId": image["id"]})
    before = await gateway.everything()
    with pytest.raises(LeaseLost):
        await findings.keep_readiness(gateway.catalogue, claim, READY)
    assert await gateway.everything() == before


# ------------------------------------------------------------ the worker


@dataclass
class Checker:
    """A converter that only checks, and fails so many times first."""

    failures: int = 0
    report: BootReadiness = READY
    asked: list[StoredBlob] = field(default_factory=list)

    def check_boot(self, blob: StoredBlob, cancelled: threading.Event) -> BootReadiness:
        self.asked.append(blob)
        if len(self.asked) <= self.failures:
            raise StoreUnavailable("away")
        return self.report


def runner(gateway: Gateway, checker: Checker) -> JobRunner:
    duties = Duties(gateway.catalogue, cast(Converter, checker))
    return JobRunner(gateway.database, duties, cast(Any, None), gateway.settings, gateway.queue)


async def check(gateway: Gateway, image: dict[str, Any], checker: Checker, attempts: int) -> None:
    """Attempt the check of an image, as a worker does."""
    (job,) = [job for job in await unfinished(gateway, JobKind.CHECK_READINESS) if job.image_id == image["id"]]
    for _ in range(attempts):
        # The longest-waiting one.
        await gateway.change(Job, job.id, due_at=(await gateway.image(image["id"])).created_at.replace(year=2000))
        await runner(gateway, checker).run(JobKind.CHECK_READINESS)


async def test_a_check_that_fails_is_tried_again(gateway: Gateway, project: str) -> None:
    image = await gateway.active(projectId=project)
    checker = Checker(failures=2)
    await check(gateway, image, checker, 3)
    blob = await gateway.blob(image)
    assert blob.readiness == READY.to_json()
    assert [(one.key, one.size) for one in checker.asked] == [(blob.key, blob.file_size)] * 3


async def test_a_check_that_fails_too_often_leaves_everything_unknown(gateway: Gateway, project: str) -> None:
    image = await gateway.active(projectId=project)
    await check(gateway, image, Checker(failures=1000), gateway.settings.job_attempts)
    assert (await gateway.blob(image)).readiness == BootReadiness.unknown(Note.CHECK_FAILED).to_json()
    assert (await gateway.image(image["id"])).status == ImageStatus.ACTIVE
    assert (await shown(gateway, image, READINESS))["bootReadiness"]["virtioBlk"]["state"] == "UNKNOWN"
    assert [job for job in await unfinished(gateway, JobKind.CHECK_READINESS) if job.image_id == image["id"]] == []


async def test_an_image_that_could_not_be_read_for_lack_of_confinement_is_checked_again(
    gateway: Gateway, project: str
) -> None:
    image = await gateway.active(projectId=project)
    checker = Checker(report=BootReadiness.unknown(Note.NOT_CONFINED))
    await check(gateway, image, checker, 2)
    assert (await gateway.blob(image)).readiness == checker.report.to_json()
    assert await aspects(gateway, image) == [["BOOT_READINESS"]]
    (job,) = [job for job in await unfinished(gateway, JobKind.CHECK_READINESS) if job.image_id == image["id"]]
    assert (job.attempts, job.due_at > now() + timedelta(minutes=50)) == (0, True)
    checker.report = READY
    await check(gateway, image, checker, 1)
    assert (await gateway.blob(image)).readiness == READY.to_json()
    assert await aspects(gateway, image) == [["BOOT_READINESS"], ["BOOT_READINESS", "OS"]]


async def test_a_check_that_was_stored_is_published_by_the_next_attempt(gateway: Gateway, project: str) -> None:
    image = await gateway.active(projectId=project)
    await known(gateway, image, readiness=READY.to_json())
    checker = Checker()
    await check(gateway, image, checker, 1)
    assert checker.asked == []
    assert await aspects(gateway, image) == [["BOOT_READINESS", "OS"]]


# ------------------------------------------------------------ images from before


async def test_images_from_before_are_checked_a_few_at_a_time(
    gateway: Gateway, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "_AT_ONCE", 2)
    async with gateway.database.transaction() as tx:
        for job in await gateway.all_jobs():
            (await tx.session.get_one(Job, job.id)).state = JobState.DONE
    images = [await gateway.active(projectId=project) for _ in range(3)]
    for image in images:
        claim = await gateway.claim(image["id"], JobKind.CHECK_READINESS)
        await gateway.change(Job, claim.job_id, state=JobState.DONE)
    alone = Blob(key="blobs/alone", virtual_size=1, stored_size=1, file_size=1)
    async with gateway.database.transaction() as tx:
        tx.session.add(alone)
    blobs = [(await gateway.image(image["id"])).blob_id for image in images]

    await findings.check_some(gateway.database)
    await findings.check_some(gateway.database)

    jobs = await unfinished(gateway, JobKind.CHECK_READINESS)
    assert {job.detail["blob"] for job in jobs} == set(blobs[1:])
    assert isinstance(await gateway.image(images[0]["id"]), Image)
    for job in jobs:
        await gateway.change(Job, job.id, state=JobState.DONE)
        await gateway.change(Blob, job.detail["blob"], readiness=READY.to_json())
    await findings.check_some(gateway.database)
    assert blobs[0] in {job.detail["blob"] for job in await unfinished(gateway, JobKind.CHECK_READINESS)}
