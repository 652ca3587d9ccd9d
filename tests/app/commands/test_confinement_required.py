"""A worker that can't confine qemu says so; where confinement is required, images wait for one that can."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import SettingsError
from app.lifecycle import ImageStatus, JobKind, JobState
from app.models import Job
from tests.app.conftest import StartGateway
from tests.e2e.client import Client
from tests.e2e.gateway import running
from tests.e2e.images import HOLEY, Variant
from tests.e2e.processes import images_command
from tests.support.gateway import Gateway, until

pytestmark = [pytest.mark.anyio, pytest.mark.needs_program("qemu-img", "bwrap")]

# What bubblewrap says in a container whose profile refuses namespaces.
REFUSED = "bwrap: No permissions to create new namespace, likely because the kernel does not allow non-privileged users"
# Its data are compressed, so that qemu-img has to copy them.
STREAM = Variant("stream", "VMDK", HOLEY, ("subformat=streamOptimized",))
PROGRAMS = ("qemu-img", "qemu-nbd", "setpriv", "prlimit", "ldd")


@pytest.fixture(params=["missing", "refused"])
def without_bubblewrap(request: pytest.FixtureRequest) -> Iterator[str]:
    """A PATH of a machine that lacks bubblewrap, or does not let it work; the unprivileged user can get to it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for name in PROGRAMS:
            (Path(folder) / name).symlink_to(str(shutil.which(name)))
        if request.param == "refused":
            program = Path(folder) / "bwrap"
            program.write_text(f"#!/bin/sh\necho '{REFUSED}' >&2; exit 1\n")
            program.chmod(0o755)
        yield folder


async def job_of(gateway: Gateway, image: str) -> Job:
    (job,) = (job for job in await gateway.all_jobs() if (job.image_id, job.kind) == (image, JobKind.CONVERT))
    return job


async def test_a_worker_that_can_not_confine_refuses_to_start_and_images_stay_queued(
    start_gateway: StartGateway, without_bubblewrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start_gateway(require_confinement=True) as gateway:
        image = await gateway.uploaded()
        with monkeypatch.context() as lacking:
            lacking.setenv("PATH", without_bubblewrap)
            with pytest.raises(SettingsError, match="IMAGES_REQUIRE_CONFINEMENT: bubblewrap is missing"):
                gateway.workers()
        assert (await gateway.image(image["id"])).status == ImageStatus.QUEUED

        async with gateway.working():
            await until(gateway.idle)

        assert (await gateway.image(image["id"])).status == ImageStatus.ACTIVE


async def test_a_worker_whose_bubblewrap_goes_away_hands_conversions_back(
    start_gateway: StartGateway, without_bubblewrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start_gateway(require_confinement=True, lease_seconds=1) as gateway, gateway.working():
        with monkeypatch.context() as lacking:
            lacking.setenv("PATH", without_bubblewrap)
            image = (await gateway.uploaded())["id"]

            async def handed_back_twice() -> bool:
                job = await job_of(gateway, image)
                return job.token >= 2 and job.state == JobState.WAITING

            await until(handed_back_twice)
            assert (await job_of(gateway, image)).attempts == 0

        async def is_active() -> bool:
            return (await gateway.image(image)).status == ImageStatus.ACTIVE

        await until(is_active)


def test_the_doctor_fails_where_confinement_is_required_and_can_not_be_had(
    without_bubblewrap: str, tmp_path: Path
) -> None:
    data = ("--data", str(tmp_path / "data"))
    required = {"PATH": without_bubblewrap, "IMAGES_REQUIRE_CONFINEMENT": "true"}

    found = images_command("doctor", "--json", *data, env=required)
    assert found.returncode == 1
    assert "nothing is converted here, because of IMAGES_REQUIRE_CONFINEMENT" in found.stdout
    assert images_command("doctor", "--no-conversions", *data, env=required).returncode == 0


def test_the_command_that_converts_ends_with_one_line_that_says_why(without_bubblewrap: str, tmp_path: Path) -> None:
    env = {"PATH": without_bubblewrap, "IMAGES_REQUIRE_CONFINEMENT": "true"}

    done = images_command("work", "--data", str(tmp_path / "data"), env=env)

    assert done.returncode == 2
    assert "IMAGES_REQUIRE_CONFINEMENT: bubblewrap is missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_where_it_is_not_required_the_doctor_says_how_little_confines_qemu(
    without_bubblewrap: str, tmp_path: Path
) -> None:
    found = images_command("doctor", "--json", "--data", str(tmp_path / "data"), env={"PATH": without_bubblewrap})

    assert found.returncode == 0
    confinement = next(one for one in json.loads(found.stdout) if one["name"] == "confinement")
    assert confinement["state"] == "only resource limits: qemu shares the network and the user of its worker"
    assert "What confines qemu" in confinement["remedy"]


def test_where_it_is_not_required_the_gateway_warns_and_converts(without_bubblewrap: str, tmp_path: Path) -> None:
    source = STREAM.build(tmp_path)
    with running(tmp_path / "data", {"PATH": without_bubblewrap}) as gateway, Client.of(gateway) as client:
        client.check_holds(client.upload(source), source, STREAM.driver, tmp_path)
    assert "qemu.without_bubblewrap" in gateway.log.read_text()
