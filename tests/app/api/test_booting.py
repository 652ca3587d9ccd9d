"""Launching images that will not boot, the firmware of servers, and the request for a boot check."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.boot_readiness.report import BootReadiness, Firmware, Support
from app.lifecycle import Architecture, JobKind, ServerFirmware
from app.models import Host
from app.sizes import MIB
from tests.support.booting import READY, known
from tests.support.gateway import ADMIN, Gateway
from tests.support.host_bench import Bench, host_bench
from tests.support.serving_servers import CONTENT, image, launch, refused, remove_hosts, server_row

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bench(gateway: Gateway, tmp_path: Path) -> AsyncIterator[Bench]:
    async with host_bench(gateway, tmp_path) as made:
        yield made


@pytest.fixture
async def disk(bench: Bench, project: str) -> dict[str, Any]:
    return await image(bench.gateway, project, architecture=None)


async def refusal(bench: Bench, project: str, disk: dict[str, Any], **given: Any) -> dict[str, Any]:
    return await refused(bench.gateway, "launchServer", ADMIN, projectId=project, imageId=disk["id"], name="s", **given)


async def find(bench: Bench, disk: dict[str, Any], **values: Any) -> None:
    await known(bench.gateway, disk, readiness=replace(READY, **values).to_json())


# ------------------------------------------------------------ drivers


@pytest.mark.parametrize("state", [Support.MISSING, Support.NOT_IN_INITRAMFS])
async def test_an_image_that_will_not_boot_is_launched_only_by_force(
    bench: Bench, project: str, disk: dict[str, Any], state: Support
) -> None:
    await find(bench, disk, virtio_blk=state)
    found = await refusal(bench, project, disk)
    assert (found["code"], found["field"]) == ("WILL_NOT_BOOT", ["imageId"])
    assert found["message"].startswith("The image will not boot. ")
    assert found["hint"].endswith(" `force: true` launches it anyway.")
    server = await launch(bench.gateway, project, disk["id"], force=True)
    assert server["status"] == "STARTING"


@pytest.mark.parametrize(
    "values",
    [
        {"virtio_blk": Support.UNKNOWN, "firmware": Firmware.UNKNOWN},
        {"virtio_net": Support.MISSING, "virtio_scsi": Support.MISSING, "cloud_init": Support.MISSING},
    ],
)
async def test_an_image_that_may_boot_is_launched(
    bench: Bench, project: str, disk: dict[str, Any], values: dict[str, Any]
) -> None:
    await find(bench, disk, **values)
    await launch(bench.gateway, project, disk["id"])


async def test_an_image_that_was_not_checked_is_launched(bench: Bench, project: str, disk: dict[str, Any]) -> None:
    assert (await bench.gateway.blob(disk)).readiness is None
    await launch(bench.gateway, project, disk["id"])


async def test_the_architecture_that_was_found_counts(bench: Bench, project: str) -> None:
    disk = await image(bench.gateway, project)
    await find(bench, disk, architecture=Architecture.AARCH64)
    found = await refusal(bench, project, disk)
    assert (found["code"], found["field"]) == ("NO_HYPERVISOR", ["imageId"])
    await launch(bench.gateway, project, disk["id"], force=True)


# ------------------------------------------------------------ firmware


@pytest.mark.parametrize(
    ("able", "asked", "used"),
    [
        (Firmware.UEFI, None, "UEFI"),
        (Firmware.BIOS, None, "BIOS"),
        (Firmware.BOTH, None, "BIOS"),
        (Firmware.UNKNOWN, None, "BIOS"),
        (Firmware.BOTH, "UEFI", "UEFI"),
        (Firmware.UNKNOWN, "UEFI", "UEFI"),
        (Firmware.UEFI, "UEFI", "UEFI"),
    ],
)
async def test_a_server_gets_the_firmware_that_its_image_needs(
    bench: Bench, project: str, disk: dict[str, Any], able: Firmware, asked: str | None, used: str
) -> None:
    await find(bench, disk, firmware=able)
    server = await launch(bench.gateway, project, disk["id"], give="server { id firmware }", firmware=asked)
    assert server["firmware"] == used
    await bench.work()
    assert bench.hypervisor.machines[server["id"]].uefi == (used == "UEFI")
    assert bench.hypervisor.machines[server["id"]].network


@pytest.mark.parametrize(("able", "asked"), [(Firmware.BIOS, "UEFI"), (Firmware.UEFI, "BIOS")])
async def test_an_image_without_a_boot_loader_for_the_firmware_will_not_boot(
    bench: Bench, project: str, disk: dict[str, Any], able: Firmware, asked: str
) -> None:
    await find(bench, disk, firmware=able)
    found = await refusal(bench, project, disk, firmware=asked)
    assert (found["code"], found["field"]) == ("WILL_NOT_BOOT", ["firmware"])
    assert found["message"] == f"The image will not boot with {asked}: it has a boot loader for {able} only."
    server = await launch(bench.gateway, project, disk["id"], firmware=asked, force=True)
    assert (await server_row(bench.gateway, server["id"])).firmware == ServerFirmware(asked)


async def test_a_check_that_knows_nothing_refuses_nothing(bench: Bench, project: str, disk: dict[str, Any]) -> None:
    await known(bench.gateway, disk, readiness=BootReadiness.unknown().to_json())
    await launch(bench.gateway, project, disk["id"], firmware="UEFI")


# ------------------------------------------------------------ verifyBoot


def upload(project: str, **given: Any) -> dict[str, Any]:
    source = {"upload": {"fileName": "disk.raw", "size": MIB}}
    return {"projectId": project, "name": "disk", "source": source, "verifyBoot": True} | given


async def test_a_boot_check_needs_a_host(bench: Bench, project: str, disk: dict[str, Any]) -> None:
    copy = {"projectId": project, "name": "c", "source": {"image": {"imageId": disk["id"]}}, "verifyBoot": True}
    await remove_hosts(bench.gateway)
    for wish in (upload(project), copy):
        found = await refused(bench.gateway, "createImage", ADMIN, **wish)
        assert (found["code"], found["field"]) == ("NO_HYPERVISOR", ["verifyBoot"])


async def test_a_boot_check_needs_a_host_with_enough_memory(bench: Bench, project: str) -> None:
    await bench.gateway.change(Host, bench.host_id, memory=512 * MIB)
    found = await refused(bench.gateway, "createImage", ADMIN, **upload(project))
    assert (found["code"], found["field"]) == ("NO_HYPERVISOR", ["verifyBoot"])


async def test_a_boot_check_needs_a_host_for_the_architecture(bench: Bench, project: str) -> None:
    found = await refused(bench.gateway, "createImage", ADMIN, **upload(project, architecture="AARCH64"))
    assert (found["code"], found["field"]) == ("NO_HYPERVISOR", ["verifyBoot"])


async def test_a_boot_check_of_an_upload_starts_when_its_image_is_active(bench: Bench, project: str) -> None:
    made = await bench.gateway.uploaded(projectId=project, verifyBoot=True)
    kinds = [job.kind for job in await bench.gateway.all_jobs() if job.image_id == made["id"]]
    assert JobKind.VERIFY_BOOT not in kinds
    active = await bench.gateway.active(CONTENT, projectId=project, verifyBoot=True)
    (job,) = [
        job for job in await bench.gateway.all_jobs() if job.image_id == active["id"] and job.kind == "VERIFY_BOOT"
    ]
    assert (job.detail, job.host_id) == ({"blob": (await bench.gateway.blob(active)).id}, None)


async def test_the_same_request_with_and_without_a_boot_check_differs(bench: Bench, project: str) -> None:
    await bench.gateway.mutate("createImage", upload(project, idempotencyKey="k"))
    found = await refused(bench.gateway, "createImage", ADMIN, **upload(project, idempotencyKey="k", verifyBoot=False))
    assert found["code"] == "CONFLICT"
