"""A boot check of a real Linux, by a real hypervisor. The other tests of boot checks use one of nothing but names."""

import asyncio
import hashlib
import json
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.support.booting import CHECKED, READY, known, shown
from tests.support.gateway import Gateway, until
from tests.support.host_bench import store_point
from tests.support.serving_servers import add_host, remove_hosts
from tests.support.tiny_linux import USUAL, TinyLinux
from workers.hypervisor.accelerators import Accelerator
from workers.hypervisor.qemu import QemuHypervisor
from workers.hypervisor.settings import HostSettings
from workers.jobs.bases import StoredBases
from workers.jobs.capturing import Capturing
from workers.jobs.host_runner import HostRunner
from workers.jobs.hosting import Hosting

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.needs_program("qemu-system-x86_64", "qemu-img", "qemu-nbd", "bwrap"),
]


async def test_a_real_linux_is_seen_to_boot_and_leaves_nothing_behind(
    gateway: Gateway, tmp_path: Path, tiny_linux: TinyLinux
) -> None:
    await remove_hosts(gateway)
    host_id = await add_host(gateway, str(tmp_path))
    content = tiny_linux.qcow2().read_bytes()
    made = await gateway.active(content, virtual_size=USUAL.size, verifyBoot=True)
    await known(gateway, made, sha256=hashlib.sha256(content).hexdigest(), readiness=READY.to_json())
    hypervisor = QemuHypervisor(HostSettings(tmp_path / "host", accelerator=Accelerator.TCG))
    capturing = Capturing(gateway.catalogue, hypervisor, gateway.wakeups, partial(store_point, gateway))
    bases = StoredBases(hypervisor.bases(0), gateway.store)
    hosting = Hosting(gateway.catalogue, hypervisor, bases.base, capturing)
    runner = HostRunner(gateway.database, hosting, gateway.settings, host_id)

    await runner.take_due()
    try:
        command = await until(lambda: asyncio.to_thread(command_of, tmp_path / "host"), 120)
        await runner.idle()
    finally:
        await runner.stop()

    found = (await shown(gateway, made, CHECKED))["bootChecked"]
    assert (found["result"], found["seen"]) == ("BOOTED", "LOGIN_PROMPT")
    assert "boot-check login:" in found["console"]
    assert "virtio-blk-pci" in command
    assert "netdev" not in command
    assert (await hypervisor.servers(), await hypervisor.volumes()) == ({}, {})


def command_of(folder: Path) -> str:
    """The command of the only server of a host; empty until it runs."""
    for description in folder.glob("servers/*/server.json"):
        uuid = json.loads(description.read_text())["uuid"]
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if "qemu-system" in process.name() and uuid in process.cmdline():
                    return " ".join(process.cmdline())
    return ""
