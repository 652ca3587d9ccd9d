"""Boot checks: a throwaway server shows whether an image boots, and nothing of it is left, whoever is killed when."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.boot_readiness.report import Firmware
from app.catalog.servers import boot_checks, hosts
from app.catalog.servers.hosts import CHECK_MEMORY
from app.lifecycle import Architecture, JobKind, JobState
from app.models import Host, Image, Job, now
from app.sizes import GIB, MIB
from tests.support.booting import CHECKED, READY, known, shown
from tests.support.gateway import LEASE, Gateway
from tests.support.host_bench import Bench, host_bench
from tests.support.serving_servers import CONTENT, launch
from tests.support.sharing import done
from workers.hypervisor.port import HypervisorUnavailable, MachineState
from workers.jobs.boot_checking import name_of

pytestmark = pytest.mark.anyio

PROMPT = b"\x1b[2JDebian GNU/Linux 12 boot-check ttyS0\r\n\r\nboot-check login: "


@pytest.fixture
async def bench(gateway: Gateway, tmp_path: Path) -> AsyncIterator[Bench]:
    async with gateway.database.transaction() as tx:
        for job in await gateway.all_jobs():
            if job.kind == JobKind.VERIFY_BOOT:
                (await tx.session.get_one(Job, job.id)).state = JobState.DONE
    async with host_bench(gateway, tmp_path) as made:
        made.hypervisor.console_of_all = PROMPT
        yield made


async def image(bench: Bench, project: str, **values: Any) -> dict[str, Any]:
    """An ACTIVE image whose boot is to be verified, and of whose bytes everything else is known."""
    made = await bench.gateway.active(CONTENT, projectId=project, verifyBoot=True)
    digest = hashlib.sha256(CONTENT).hexdigest()
    await known(bench.gateway, made, **{"sha256": digest, "readiness": READY.to_json()} | values)
    return made


async def job_of(bench: Bench, made: dict[str, Any]) -> Job:
    (job,) = [
        job for job in await bench.gateway.all_jobs() if job.kind == JobKind.VERIFY_BOOT and job.image_id == made["id"]
    ]
    return job


async def checked(bench: Bench, made: dict[str, Any]) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (await shown(bench.gateway, made, CHECKED))["bootChecked"]
    return found


def patience(bench: Bench, seconds: float) -> None:
    """How long images may take to boot from now on."""
    settings = bench.gateway.settings.model_copy(update={"boot_check_seconds": seconds})
    hosting = bench.runner.hosting
    bench.runner.hosting = replace(hosting, catalogue=replace(hosting.catalogue, settings=settings))


def assert_nothing_left(bench: Bench) -> None:
    assert (bench.hypervisor.machines, bench.hypervisor.disks) == ({}, {})


async def test_an_image_that_shows_a_login_prompt_boots(bench: Bench, project: str) -> None:
    made = await image(bench, project)
    assert await checked(bench, made) is None
    await bench.work()
    found = await checked(bench, made)
    assert found is not None
    assert (found["result"], found["seen"]) == ("BOOTED", "LOGIN_PROMPT")
    assert found["console"] == "Debian GNU/Linux 12 boot-check ttyS0\n\nboot-check login:"
    assert found["afterSeconds"] >= 0
    event = (await bench.gateway.events(made["id"]))[-1]
    assert event.detail == {"aspects": ["BOOT_CHECKED"]}
    name = name_of((await job_of(bench, made)).id)
    assert bench.hypervisor.done[-2:] == [f"destroy {name}", f"delete_volume {name}"]
    assert_nothing_left(bench)


async def test_the_throwaway_server_is_none_of_the_catalogue(bench: Bench, project: str) -> None:
    made = await image(bench, project)
    bench.hypervisor.hold("destroy")
    bench.hypervisor.held["destroy"].set()
    await bench.runner.take_due()
    bench.hypervisor.hold("launch")
    await bench.hypervisor.reached["launch"].wait()
    fields = "usedBy(first: 1) { totalCount } lastLaunchedAt project { servers(first: 1) { totalCount } }"
    found = await shown(bench.gateway, made, fields)
    assert found["usedBy"]["totalCount"] == found["project"]["servers"]["totalCount"] == 0
    assert found["lastLaunchedAt"] is None
    (disk,) = bench.hypervisor.disks.values()
    assert (disk.size, disk.base is not None) == (GIB, True)
    bench.hypervisor.held["launch"].set()
    await bench.runner.idle()
    assert_nothing_left(bench)


@pytest.mark.parametrize(("firmware", "uefi"), [(Firmware.UEFI, True), (Firmware.BOTH, False)])
async def test_it_boots_alone_with_little_memory_and_the_firmware_of_the_image(
    bench: Bench, project: str, firmware: Firmware, uefi: bool
) -> None:
    made = await image(bench, project, readiness=replace(READY, firmware=firmware).to_json())
    bench.hypervisor.hold("delete_volume")
    bench.hypervisor.held["delete_volume"].set()
    machines = []
    real = bench.hypervisor.launch

    async def launch_and_note(machine: Any) -> None:
        machines.append(machine)
        await real(machine)

    bench.hypervisor.launch = launch_and_note  # type: ignore[method-assign]
    await bench.work()
    (machine,) = machines
    assert (machine.uefi, machine.network, machine.memory, machine.vcpus) == (uefi, False, CHECK_MEMORY, 1)
    assert machine.seed.user_data is None
    assert machine.seed.instance_id.startswith("ins_")
    assert (await checked(bench, made) or {})["result"] == "BOOTED"


async def test_a_guest_agent_is_a_sign_too(bench: Bench, project: str) -> None:
    made = await image(bench, project)
    bench.hypervisor.console_of_all, bench.hypervisor.agents = b"", True
    await bench.work()
    found = await checked(bench, made)
    assert found is not None
    assert (found["result"], found["seen"], found["console"]) == ("BOOTED", "GUEST_AGENT", "")


async def test_an_image_that_shows_nothing_in_time_is_not_seen_to_boot(bench: Bench, project: str) -> None:
    made = await image(bench, project)
    bench.hypervisor.console_of_all = b"Booting from Hard Disk...\r\n"
    patience(bench, 0.01)
    await bench.work()
    found = await checked(bench, made)
    assert found is not None
    assert (found["result"], found["seen"]) == ("NOT_SEEN", None)
    assert found["console"] == "Booting from Hard Disk..."
    assert_nothing_left(bench)


async def test_a_server_that_powers_off_has_ended(bench: Bench, project: str) -> None:
    made = await image(bench, project)
    bench.hypervisor.console_of_all = b"no root device found\n"
    real = bench.hypervisor.launch

    async def launch_in_vain(machine: Any) -> None:
        await real(machine)
        bench.hypervisor.crash(machine.id)

    bench.hypervisor.launch = launch_in_vain  # type: ignore[method-assign]
    await bench.work()
    found = await checked(bench, made)
    assert found is not None
    assert (found["result"], found["seen"], found["console"]) == ("ENDED", None, "no root device found")
    assert_nothing_left(bench)


async def test_a_check_waits_for_what_else_is_found_out(bench: Bench, project: str) -> None:
    made = await image(bench, project, sha256=None)
    await bench.work()
    await known(bench.gateway, made, sha256=hashlib.sha256(CONTENT).hexdigest(), readiness=None)
    await bench.work()
    assert (await job_of(bench, made)).attempts == 0
    await known(bench.gateway, made, readiness=READY.to_json())
    await bench.work()
    assert (await checked(bench, made) or {})["result"] == "BOOTED"


# ------------------------------------------------------------ who shares the result


async def test_copies_have_the_check_of_their_bytes(bench: Bench, project: str) -> None:
    made = await image(bench, project)
    source = {"image": {"imageId": made["id"]}}
    wish = {"projectId": project, "name": "copy", "source": source, "verifyBoot": True}
    before = await done(bench.gateway, "createImage", give="image { id }", **wish)
    await bench.work()
    await bench.work()
    after = await done(bench.gateway, "createImage", give="image { id }", **wish)
    assert await checked(bench, before) == await checked(bench, after) == await checked(bench, made)
    assert [line for line in bench.hypervisor.done if "launch" in line] == [
        f"launch {name_of((await job_of(bench, made)).id)}"
    ]
    assert (await job_of(bench, before)).state == JobState.DONE
    with pytest.raises(ValueError, match="not enough values"):
        await job_of(bench, after)


async def test_bytes_that_did_not_boot_are_checked_again_on_request(bench: Bench, project: str) -> None:
    made = await image(bench, project)
    bench.hypervisor.console_of_all = b""
    patience(bench, 0.01)
    await bench.work()
    assert (await checked(bench, made) or {})["result"] == "NOT_SEEN"
    bench.hypervisor.console_of_all = PROMPT
    wish = {"projectId": project, "name": "copy", "source": {"image": {"imageId": made["id"]}}, "verifyBoot": True}
    await done(bench.gateway, "createImage", give="image { id }", **wish)
    await bench.work()
    assert (await checked(bench, made) or {})["result"] == "BOOTED"


# ------------------------------------------------------------ hosts


async def test_an_image_without_the_wish_is_not_booted(bench: Bench, project: str) -> None:
    made = await bench.gateway.active(CONTENT, projectId=project)
    assert JobKind.VERIFY_BOOT not in [job.kind for job in await bench.gateway.all_jobs() if job.image_id == made["id"]]


async def test_a_check_needs_memory_that_servers_do_not_have(bench: Bench, project: str) -> None:
    await bench.gateway.change(Host, bench.host_id, memory=2 * GIB)
    made = await image(bench, project)
    server = await launch(bench.gateway, project, made["id"], memoryMib=1536)
    await bench.work()
    assert (await job_of(bench, made)).attempts == 0
    await done(bench.gateway, "deleteServer", serverId=server["id"])
    claim = await boot_checks.claim(bench.gateway.database, bench.host_id, LEASE)
    assert claim is not None
    async with bench.gateway.database.read() as session:
        host = await session.get_one(Host, bench.host_id)
        assert await hosts.free_memory(session, [host]) == {bench.host_id: GIB}


async def test_a_host_checks_two_images_at_a_time_and_one_of_each_project(bench: Bench, project: str) -> None:
    projects = [project, project, await bench.gateway.project(), await bench.gateway.project()]
    made = [await image(bench, of) for of in projects]
    claims = [await boot_checks.claim(bench.gateway.database, bench.host_id, LEASE) for _ in range(4)]
    assert [claim and claim.image_id for claim in claims] == [made[0]["id"], made[2]["id"], None, None]


async def test_a_host_that_takes_no_launches_checks_nothing(bench: Bench, project: str) -> None:
    made = await image(bench, project)
    await bench.gateway.change(Host, bench.host_id, takes_launches=False)
    await bench.work()
    assert (await job_of(bench, made)).attempts == 0


async def test_an_image_for_another_processor_is_not_booted(bench: Bench, project: str) -> None:
    made = await image(bench, project, readiness=replace(READY, architecture=Architecture.AARCH64).to_json())
    await bench.work()
    found = await checked(bench, made)
    assert found is not None
    assert (found["result"], found["afterSeconds"]) == ("FAILED", 0)
    assert [line for line in bench.hypervisor.done if "launch" in line] == []


async def test_a_host_that_can_not_boot_anything_gives_up(bench: Bench, project: str) -> None:
    made = await image(bench, project)
    bench.hypervisor.failing["launch"] = HypervisorUnavailable("away")
    bench.runner.settings = bench.gateway.settings.model_copy(update={"job_attempts": 2})
    await bench.work()
    assert await checked(bench, made) is None
    await bench.due_now()
    await bench.work()
    assert (await checked(bench, made) or {})["result"] == "FAILED"
    assert_nothing_left(bench)


# ------------------------------------------------------------ kills

STEPS = ["create_volume", "launch", "destroy", "delete_volume"]


async def begun(bench: Bench, made: dict[str, Any], step: str) -> str:
    """A check whose process is killed in a step. Returns the id of its server."""
    name = name_of((await job_of(bench, made)).id)
    claim = await boot_checks.claim(bench.gateway.database, bench.host_id, LEASE)
    assert claim is not None
    bench.hypervisor.hold("launch" if step in STEPS[2:] else step)
    cancelled = asyncio.Event()
    running = asyncio.create_task(bench.runner.hosting.verify_boot(claim, cancelled))
    operation = "launch" if step in STEPS[2:] else step
    await bench.hypervisor.reached[operation].wait()
    if step in STEPS[2:]:
        bench.hypervisor.hold(step)
        bench.hypervisor.held.pop("launch").set()
        await bench.hypervisor.reached[step].wait()
    for held in STEPS:
        bench.hypervisor.failing[held] = HypervisorUnavailable("killed")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    bench.hypervisor.failing.clear()
    bench.hypervisor.held.clear()
    return name


@pytest.mark.parametrize("step", STEPS)
async def test_a_check_whose_process_was_killed_starts_over(bench: Bench, project: str, step: str) -> None:
    made = await image(bench, project)
    await begun(bench, made, step)
    await bench.sweep()
    await bench.due_now()
    bench.restarted()
    await bench.work()
    assert (await checked(bench, made) or {})["result"] == "BOOTED"
    assert_nothing_left(bench)


@pytest.mark.parametrize("step", STEPS)
async def test_a_sweep_deletes_what_a_killed_process_left_of_a_cancelled_check(
    bench: Bench, project: str, step: str
) -> None:
    made = await image(bench, project)
    name = await begun(bench, made, step)
    left = set(bench.hypervisor.machines) | set(bench.hypervisor.disks)
    assert left <= {name}
    await bench.sweep()
    assert set(bench.hypervisor.machines) | set(bench.hypervisor.disks) == left
    await bench.gateway.mutate("deleteImage", {"imageId": made["id"]})
    bench.restarted()
    await bench.sweep()
    await bench.work()
    assert_nothing_left(bench)


async def test_a_check_moves_to_another_host_when_its_own_is_gone(bench: Bench, project: str, tmp_path: Path) -> None:
    made = await image(bench, project)
    name = await begun(bench, made, "delete_volume")
    assert set(bench.hypervisor.disks) == {name}
    await bench.gateway.change(Job, (await job_of(bench, made)).id, lease_until=now() - timedelta(seconds=1))
    async with host_bench(bench.gateway, tmp_path / "other") as other:
        other.hypervisor.console_of_all = PROMPT
        await other.work()
        assert (await job_of(bench, made)).host_id == other.host_id
        assert_nothing_left(other)
    assert (await checked(bench, made) or {})["result"] == "BOOTED"
    await bench.sweep()
    assert_nothing_left(bench)


async def test_a_sweep_leaves_running_checks_and_servers_alone(bench: Bench, project: str) -> None:
    made = await image(bench, project)
    server = await launch(bench.gateway, project, made["id"])
    await bench.gateway.change(Image, made["id"], verify_boot=True)
    bench.hypervisor.console_of_all = b""
    await bench.runner.take_due()
    name = name_of((await job_of(bench, made)).id)
    async with asyncio.timeout(30):
        while await bench.hypervisor.state(name) is not MachineState.RUNNING:  # noqa: ASYNC110 (another task does it)
            await asyncio.sleep(0.01)
    await bench.sweep()
    assert set(bench.hypervisor.machines) == {server["id"], name}
    bench.hypervisor.console_of_all = PROMPT
    await bench.runner.idle()
    assert set(bench.hypervisor.machines) == {server["id"]}


async def test_a_check_that_is_released_with_its_process_costs_no_attempt(bench: Bench, project: str) -> None:
    made = await image(bench, project)
    bench.hypervisor.console_of_all = b""
    bench.hypervisor.hold("launch")
    await bench.runner.take_due()
    await bench.hypervisor.reached["launch"].wait()
    await bench.runner.stop()
    assert_nothing_left(bench)
    job = await job_of(bench, made)
    assert (job.state, job.attempts) == (JobState.WAITING, 0)


async def test_a_server_that_vanishes_during_its_check_is_booted_again(bench: Bench, project: str) -> None:
    made = await image(bench, project)
    real = bench.hypervisor.launch

    async def launch_and_lose(machine: Any) -> None:
        await real(machine)
        bench.hypervisor.restart()

    bench.hypervisor.console_of_all = b""
    bench.hypervisor.launch = launch_and_lose  # type: ignore[method-assign]
    await bench.work()
    assert await checked(bench, made) is None
    bench.hypervisor.launch, bench.hypervisor.console_of_all = real, PROMPT  # type: ignore[method-assign]
    await bench.due_now()
    await bench.work()
    assert (await checked(bench, made) or {})["result"] == "BOOTED"


async def test_the_disk_of_a_larger_image_is_as_large_as_that(bench: Bench, project: str) -> None:
    made = await bench.gateway.active(CONTENT, virtual_size=5 * GIB + MIB, projectId=project, verifyBoot=True)
    await known(bench.gateway, made, sha256=hashlib.sha256(CONTENT).hexdigest(), readiness=READY.to_json())
    bench.hypervisor.hold("launch")
    await bench.runner.take_due()
    await bench.hypervisor.reached["launch"].wait()
    assert [disk.size for disk in bench.hypervisor.disks.values()] == [6 * GIB]
    bench.hypervisor.held["launch"].set()
    await bench.runner.idle()
