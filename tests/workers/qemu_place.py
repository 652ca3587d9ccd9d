"""A hypervisor that runs QEMU, for tests: its guests are written to, looked at and killed."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.workers.hypervisor_contract import Base, HypervisorPlace, until
from tests.workers.images import MiB, qemu_io
from workers.hypervisor.accelerators import Accelerator
from workers.hypervisor.files import HostFiles
from workers.hypervisor.locks import is_locked
from workers.hypervisor.monitor import connected
from workers.hypervisor.qemu import QemuHypervisor
from workers.hypervisor.settings import HostSettings
from workers.limits import Limits

SECONDS = 30.0


class QemuPlace(HypervisorPlace):
    """QEMU on this machine, with its files in `folder`."""

    boot_line = b"SeaBIOS"
    hypervisor: QemuHypervisor

    def __init__(self, folder: Path, base: Base) -> None:
        self.settings = HostSettings(folder, accelerator=Accelerator.TCG)
        super().__init__(QemuHypervisor(self.settings), base)
        self.files = HostFiles(folder, Limits().unprivileged_id if os.geteuid() == 0 else None)

    def write(self, volume_id: str, offset: int, length: int, byte: int) -> None:
        self.io(volume_id, f"write -P {byte} {offset} {length}")

    def io(self, volume_id: str, asked: str) -> None:
        """Execute a command of qemu-io on a volume."""
        volume = self.files.volume(volume_id)
        if not is_locked(volume.used):
            return qemu_io(volume.disk, asked)
        use = json.loads(volume.use.read_text())
        device = f"/machine/peripheral/disk{use['number']}/virtio-backend"
        line = f'qemu-io -d {device} "{asked}"'
        said = self.do(self.execute(use["server"], "human-monitor-command", command_line=line))
        assert "error" not in said.lower(), said
        assert "failed" not in said.lower(), said

    async def execute(self, server_id: str, command: str, **arguments: object) -> Any:
        async with connected(self.files.server(server_id), SECONDS) as monitor:
            return await monitor.execute(command, **arguments)

    def crash(self, server_id: str) -> None:
        self.process(server_id).kill()
        until(lambda: not is_locked(self.files.server(server_id).alive))

    def process(self, server_id: str) -> psutil.Process:
        """QEMU itself, without what confines it."""
        uuid = json.loads(self.files.server(server_id).description.read_text())["uuid"]
        [found] = [one for one in processes_with(uuid) if "qemu-system" in one.name()]
        return found

    def another(self) -> QemuHypervisor:
        """What another process has that uses the same folder."""
        return QemuHypervisor(self.settings)

    def console(self, server_id: str) -> str:
        return self.do(self.hypervisor.console(server_id, MiB)).decode("utf-8", "replace")


def processes_with(argument: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if argument in process.cmdline():
                found.append(process)
    return found
