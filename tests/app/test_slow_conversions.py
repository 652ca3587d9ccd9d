"""A conversion that is slow for its size keeps no other image waiting, and does not go on for ever."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.lifecycle import FailureCode, ImageStatus, JobKind
from app.models import Image
from app.sizes import MIB
from tests.app.conftest import StartGateway
from tests.support.gateway import Gateway, until
from tests.workers.bombs import qcow2_bomb, vmdk_bomb
from workers.jobs.turn_clock import MOST_LOST, budget
from workers.qemu import img
from workers.qemu.confinement import Sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.needs_program("qemu-img")]

# It has to be copied by `qemu-img convert`; the other kind is not.
HOLES = b"\1" * 4096 + bytes(MIB - 4096)
DENSE = b"\1" * MIB


@pytest.fixture
def endless_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of qemu-img, `convert` never ends. Tells what was begun."""
    folder = tmp_path / "bin"
    folder.mkdir(mode=0o755)
    program = folder / "qemu-img"
    program.write_text(f'#!/bin/sh\n[ "$1" = convert ] && exec sleep 1000\nexec {shutil.which("qemu-img")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    begun: list[str] = []
    convert = img.convert

    def noted(sandbox: Sandbox, *arguments: Any) -> None:
        begun.append(sandbox.folder.name)
        convert(sandbox, *arguments)

    monkeypatch.setattr(img, "convert", noted)
    return begun


async def status(gateway: Gateway, image: str) -> str:
    return (await gateway.image(image)).status


async def test_two_bombs_of_a_project_keep_no_image_of_another_from_becoming_active(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    bombs = [("QCOW2", qcow2_bomb(tmp_path / "bomb.qcow2")), ("VMDK", vmdk_bomb(tmp_path / "bomb.vmdk"))]
    async with start_gateway(workers=1) as gateway:
        bad, good = await gateway.project(), await gateway.project()
        refused = [
            await gateway.uploaded(path.read_bytes(), projectId=bad, upload={"fileName": path.name, "format": kind})
            for kind, path in bombs
        ]
        wanted = await gateway.uploaded(DENSE, projectId=good)

        async with gateway.working():
            await until(gateway.idle)

        assert await status(gateway, wanted["id"]) == ImageStatus.ACTIVE
        for image in refused:
            found = await gateway.image(image["id"])
            assert (found.status, found.failure_code) == (ImageStatus.ERROR, FailureCode.UNSAFE_IMAGE)
            assert "share one" in str(found.failure_message)


async def test_slow_images_of_a_project_lose_their_turn_to_an_image_of_another(
    start_gateway: StartGateway, endless_copies: list[str]
) -> None:
    async with start_gateway(workers=2, turn_seconds=1) as gateway:
        slow, quick = await gateway.project(), await gateway.project()
        for _ in range(2):
            await gateway.uploaded(HOLES, projectId=slow)
        async with gateway.working():

            async def both_begun() -> bool:
                return len(endless_copies) == 2

            await until(both_begun)
            wanted = await gateway.uploaded(DENSE, projectId=quick)

            async def is_active() -> bool:
                return await status(gateway, wanted["id"]) == ImageStatus.ACTIVE

            await until(is_active)


async def test_an_image_that_loses_its_turn_too_often_ends_in_error(
    start_gateway: StartGateway, endless_copies: list[str]
) -> None:
    async with start_gateway(workers=1, turn_seconds=0.05) as gateway:
        images = [(await gateway.uploaded(HOLES))["id"] for _ in range(2)]
        async with gateway.working():

            async def ended() -> Image | None:
                found = [await gateway.image(image) for image in images]
                return next((image for image in found if image.status == ImageStatus.ERROR), None)

            failed = await until(ended)

        assert failed is not None
        assert (failed.failure_code, failed.failure_retriable) == (FailureCode.CORRUPT_IMAGE, True)
        assert f"a file of 1 MiB: it was stopped {MOST_LOST + 1} times" in str(failed.failure_message)
        (job,) = (job for job in await gateway.all_jobs() if (job.image_id, job.kind) == (failed.id, JobKind.CONVERT))
        assert (job.detail["lost"], job.attempts) == (MOST_LOST, 1)


async def test_a_slow_conversion_goes_on_while_every_other_image_finds_a_worker(
    start_gateway: StartGateway, endless_copies: list[str]
) -> None:
    async with start_gateway(workers=2, turn_seconds=0.01, poll_seconds=5) as gateway:
        slow = await gateway.uploaded(HOLES)
        async with gateway.working():

            async def begun() -> bool:
                return len(endless_copies) == 1

            await until(begun)
            for _ in range(3):
                other = await gateway.uploaded(DENSE)

                async def is_active(image: str = other["id"]) -> bool:
                    return await status(gateway, image) == ImageStatus.ACTIVE

                await until(is_active)
        assert await status(gateway, slow["id"]) == ImageStatus.SAVING
        assert len(endless_copies) == 1


async def test_the_time_of_a_turn_grows_with_the_file_and_with_each_turn_that_was_lost(
    start_gateway: StartGateway,
) -> None:
    async with start_gateway(turn_seconds=30) as gateway:
        times = [budget(gateway.settings, size, lost) for size, lost in [(0, 0), (4 * MIB, 0), (400 * MIB, 2)]]

    assert times == [30, 31, 520]
