"""Real virtual machines, under software emulation: found again, killed, and confined.

Most machines here have nothing to boot: tests write to their disks through QEMU, as a guest would. One boots.
"""

import asyncio
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from tests.support.tiny_linux import TinyLinux
from tests.workers.capture_bench import CaptureBench, assert_same_disk, folder_bench
from tests.workers.hypervisor_contract import (
    SIZE,
    Base,
    HypervisorContract,
    overwritten,
    read_all,
    spec,
    until,
)
from tests.workers.images import KiB, MiB, qemu_img
from tests.workers.qemu_place import SECONDS, QemuPlace, processes_with
from workers.capture.task import Captured
from workers.hypervisor.live_points import drop
from workers.hypervisor.monitor import Refused, connected
from workers.hypervisor.port import (
    HypervisorError,
    HypervisorUnavailable,
    MachineSpec,
    MachineState,
    Point,
    PointLost,
    Seed,
    VolumeInUse,
    VolumeSpec,
)
from workers.hypervisor.qemu import QemuHypervisor
from workers.hypervisor.records import PointRecord, point_of
from workers.hypervisor.settings import HostSettings

pytestmark = pytest.mark.needs_program("qemu-system-x86_64", "qemu-img", "qemu-io", "qemu-nbd", "bwrap")

BLOCK = 64 * KiB


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def place(tmp_path: Path, base: Base) -> Iterator[QemuPlace]:
    one = QemuPlace(tmp_path / "host", base)
    yield one
    one.close()


class TestQemuHypervisor(HypervisorContract):
    """It fulfils the contract."""


# ---------------------------------------------------------------- processes


def test_a_server_is_found_again_by_another_process(place: QemuPlace) -> None:
    place.create_volume()
    place.launch()
    place.write("V1", 0, BLOCK, 1)
    point = place.point()
    place.write("V1", 0, BLOCK, 2)
    pid = place.process("S1").pid

    place.hypervisor = place.another()

    assert place.state() is MachineState.RUNNING
    assert place.read(point)[:BLOCK] == b"\1" * BLOCK
    place.launch()
    assert place.process("S1").pid == pid
    place.do(place.hypervisor.release("V1"))
    place.do(place.hypervisor.destroy("S1"))
    assert not psutil.pid_exists(pid)


def test_a_killed_server_is_stopped_and_its_disk_is_sound(place: QemuPlace) -> None:
    place.create_volume()
    place.launch()
    place.write("V1", 0, 2 * MiB, 1)
    place.point()
    place.write("V1", MiB, 2 * MiB, 2)

    place.crash("S1")

    assert place.state() is MachineState.STOPPED
    place.do(place.hypervisor.release("V1"))
    volume = place.files.volume("V1")
    assert sorted(path.name for path in volume.disk_folder.iterdir()) == ["disk.qcow2"]
    report = json.loads(qemu_img("check", "--output=json", str(volume.disk)))
    assert "corruptions" not in report


def test_a_point_of_a_running_server_is_captured_while_its_guest_writes(place: QemuPlace, tmp_path: Path) -> None:
    place.create_volume()
    place.launch()
    place.write("V1", MiB, MiB, 1)
    place.io("V1", f"discard {3 * BLOCK} {2 * BLOCK}")
    point = place.point()
    content = place.read(point)
    place.write("V1", 5 * BLOCK + 512, 3 * MiB, 2)
    place.io("V1", f"discard {BLOCK} {BLOCK}")
    place.io("V1", f"discard {2 * MiB - BLOCK} {2 * BLOCK}")

    with folder_bench(tmp_path / "bench") as bench:
        bench.put(place.base.path)
        made = place.do(captured(place, point, bench))
        raw = tmp_path / "point.raw"
        raw.write_bytes(content)
        assert_same_disk(bench, raw, made)


async def captured(place: QemuPlace, point: Point, bench: CaptureBench) -> Captured:
    async with place.hypervisor.reading(point) as reader:
        return await asyncio.to_thread(bench.capture, reader)


def test_nothing_is_left_of_a_server_that_was_destroyed(place: QemuPlace) -> None:
    place.create_volume()
    place.launch()
    uuid = json.loads(place.files.server("S1").description.read_text())["uuid"]
    assert processes_with(uuid)

    place.do(place.hypervisor.destroy("S1"))
    place.do(place.hypervisor.delete_volume("V1"))

    until(lambda: not processes_with(uuid))
    left = [path for path in place.files.root.rglob("*") if not path.is_dir()]
    assert left == []


def test_two_processes_launch_one_server_once(place: QemuPlace) -> None:
    place.create_volume()

    async def launch_twice() -> None:
        await asyncio.gather(*(one.launch(spec("S1", "V1")) for one in (place.hypervisor, place.another())))

    place.do(launch_twice())

    place.process("S1")


def test_a_server_that_can_not_start_says_why_and_is_stopped(place: QemuPlace) -> None:
    place.create_volume()
    place.files.volume("V1").disk.write_bytes(b"not a qcow2 file")

    with pytest.raises(HypervisorError, match="qcow2"):
        place.launch()

    assert place.state() is MachineState.STOPPED


def test_a_disk_that_something_else_reads_is_in_use(place: QemuPlace) -> None:
    place.create_volume()
    point = place.point()

    async def launch_while_it_is_read() -> None:
        async with place.hypervisor.reading(point):
            await place.hypervisor.release("V1")
            await place.hypervisor.launch(spec("S1", "V1"))

    with pytest.raises(VolumeInUse):
        place.do(launch_while_it_is_read())
    until(lambda: launched(place))


def launched(place: QemuPlace) -> bool:
    """Whether the server starts; not while a reader of its disk is ending."""
    with suppress(VolumeInUse):
        place.launch()
    return place.state() is MachineState.RUNNING


def test_a_machine_without_qemu_is_unavailable(tmp_path: Path) -> None:
    hypervisor = QemuHypervisor(HostSettings(tmp_path, qemu_system="qemu-system-none"))
    with pytest.raises(HypervisorUnavailable, match="install qemu-system-x86"):
        asyncio.run(hypervisor.check())


def test_a_console_takes_no_more_space_than_it_may(place: QemuPlace) -> None:
    place.create_volume()
    place.launch()
    console = place.files.server("S1").console
    with console.open("ab") as file:
        file.write(b"old\n" * MiB + b"new\n")

    said = place.do(place.hypervisor.console("S1", 8 * MiB))

    assert said.endswith(b"old\nnew\n")
    assert len(said) == place.settings.console_bytes
    assert console.stat().st_blocks * 512 <= 2 * place.settings.console_bytes


@pytest.mark.skipif(not Path("/usr/share/OVMF/OVMF_CODE_4M.fd").exists(), reason="needs OVMF: apt-get install ovmf")
def test_a_server_with_uefi_keeps_the_variables_of_its_firmware(place: QemuPlace) -> None:
    place.create_volume()
    machine = MachineSpec("S1", 1, 128 * MiB, ["V1"], Seed("i", "uefi"), uefi=True)
    place.do(place.hypervisor.launch(machine))
    until(lambda: "BdsDxe" in place.console("S1"))
    place.do(place.hypervisor.stop("S1", 0))

    variables = place.files.server("S1").uefi_variables.read_bytes()

    assert variables != place.settings.uefi_variables.read_bytes()


# ---------------------------------------------------------------- points


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4, 6])
def test_a_point_that_was_begun_by_a_killed_process_is_taken_again(place: QemuPlace, step: int) -> None:
    place.create_volume()
    place.launch()
    place.write("V1", 0, BLOCK, 1)
    begin_point(place, step)
    record = point_of(place.files.volume("V1"))
    assert record is not None
    assert not record.taken
    place.write("V1", 0, BLOCK, 2)

    point = place.point()
    place.write("V1", 0, BLOCK, 3)

    assert place.read(point) == overwritten(place.base.content.ljust(SIZE, b"\0"), 0, BLOCK, 2)
    place.do(place.hypervisor.release("V1"))
    assert nodes(place) == {"disk0", "base0", "seed"}


def begin_point(place: QemuPlace, steps: int) -> None:
    """Do the first steps of a point, and no more, as a process that was killed."""
    volume = place.files.volume("V1")
    PointRecord(SIZE, "left", "S1").write(volume)
    place.files.make_fleece(volume, SIZE)
    file = {"driver": "file", "filename": "/vm/0/fleece.raw"}
    device = "/machine/peripheral/disk0/virtio-backend"
    sequence: list[tuple[str, dict[str, object]]] = [
        ("blockdev-add", {"driver": "raw", "node_name": "fleece0", "file": file}),
        ("blockdev-add", {"driver": "copy-before-write", "node_name": "filter0", "file": "disk0", "target": "fleece0"}),
        ("qom-set", {"path": device, "property": "drive", "value": "filter0"}),
        ("blockdev-add", {"driver": "snapshot-access", "node_name": "access0", "file": "filter0"}),
        ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "/vm/run/points.sock"}}}),
        ("block-export-add", {"type": "nbd", "id": "access0", "node_name": "access0", "name": "left"}),
    ]
    for command, arguments in sequence[:steps]:
        place.do(place.execute("S1", command, **arguments))


def nodes(place: QemuPlace) -> set[str]:
    """The names of QEMU's block nodes that have one."""
    found = place.do(place.execute("S1", "query-named-block-nodes", flat=True))
    return {node["node-name"] for node in found if not node["node-name"].startswith("#")}


def test_a_point_whose_record_was_lost_with_the_machine_is_gone(place: QemuPlace) -> None:
    place.create_volume()
    volume = place.files.volume("V1")
    volume.point.touch()
    place.files.make_fleece(volume, SIZE)

    with pytest.raises(PointLost):
        place.read(Point("V1", SIZE, quiet=False))
    place.launch()
    assert place.read(place.point()) == place.base.content.ljust(SIZE, b"\0")
    place.do(place.hypervisor.release("V1"))
    assert not volume.fleece.exists()


def test_a_point_that_is_released_twice_leaves_nothing_behind(place: QemuPlace) -> None:
    place.create_volume()
    place.launch()
    place.point()

    async def drop_again() -> None:
        async with connected(place.files.server("S1"), SECONDS) as monitor:
            await drop(monitor, 0)
            await drop(monitor, 0)

    place.do(drop_again())
    place.do(place.hypervisor.release("V1"))
    place.do(place.hypervisor.release("V1"))

    assert nodes(place) == {"disk0", "base0", "seed"}
    assert not place.files.volume("V1").fleece.exists()


@pytest.mark.parametrize("command", ["discard", "write -z", "write -P 2"])
def test_a_point_keeps_its_bytes_whatever_the_guest_does_and_how_it_is_read(place: QemuPlace, command: str) -> None:
    place.create_volume()
    place.launch()
    place.write("V1", 0, 3 * MiB, 1)
    wanted = overwritten(place.base.content.ljust(SIZE, b"\0"), 0, 3 * MiB, 1)
    point = place.point()
    for offset in (0, 320 * KiB, MiB):
        place.io("V1", f"{command} {offset} {128 * KiB}")

    assert place.read(point) == wanted

    async def pieces(length: int) -> bytes:
        content = bytearray(SIZE)
        async with place.hypervisor.reading(point) as reader:
            for offset in range(0, SIZE, length):
                await asyncio.to_thread(reader.read_into, offset, memoryview(content)[offset : offset + length])
        return bytes(content)

    assert place.do(pieces(96 * KiB)) == wanted


def test_a_refused_command_does_not_end_the_connection(place: QemuPlace) -> None:
    place.create_volume()
    place.launch()

    async def ask() -> str:
        async with connected(place.files.server("S1"), SECONDS) as monitor:
            with pytest.raises(Refused):
                await monitor.execute("blockdev-del", node_name="none")
            answer: dict[str, str] = await monitor.execute("query-status")
            return answer["status"]

    assert place.do(ask()) == "running"


# ---------------------------------------------------------------- a guest


class Web:
    """A server on the loopback of this machine. `asked` are the paths that were requested."""

    def __init__(self) -> None:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Requests are in `asked`."""

        self.asked = asked
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


# It reaches a server of its own, so it would reach others.
GUEST = """#!/bin/sh
echo "guest: user data runs on $(hostname)"
ip addr show eth0 | grep -o 'inet [0-9.]*'
httpd -p 127.0.0.1:8080 -h /etc
for url in http://127.0.0.1:8080/hostname http://10.0.2.2:{port}/; do
    timeout 2 wget -q -O /dev/null $url && echo "guest: reached $url"
done
"""


def test_a_guest_boots_reaches_nothing_and_hears_the_power_button(
    tmp_path: Path, base: Base, tiny_linux: TinyLinux
) -> None:
    web = Web()
    place = QemuPlace(tmp_path / "host", base)
    try:
        place.do(place.hypervisor.create_volume(VolumeSpec("BOOT", 128 * MiB, tiny_linux.qcow2())))
        seed = Seed("instance-1", "little", ["ssh-ed25519 AAAA someone"], GUEST.format(port=web.port))
        place.do(place.hypervisor.launch(MachineSpec("S1", 2, 256 * MiB, ["BOOT"], seed)))

        until(lambda: "tiny: Debian GNU/Linux 12 is up" in place.console("S1"), 240)
        said = place.console("S1")
        assert "guest: user data runs on little" in said
        assert "inet 10.0.2.15" in said
        assert re.findall(r"guest: reached (\S+)", said) == ["http://127.0.0.1:8080/hostname"]
        assert web.asked == []

        # It would take minutes to be ended otherwise.
        place.do(place.hypervisor.stop("S1", 600))
        assert place.state() is MachineState.STOPPED
        assert place.console("S1").count("is up") == 1
    finally:
        web.close()
        place.close()


# ---------------------------------------------------------------- confinement


@pytest.fixture
def status(place: QemuPlace) -> Callable[[str], str]:
    place.create_volume()
    place.launch()
    lines = Path(f"/proc/{place.process('S1').pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines).__getitem__


def test_qemu_is_nobody_without_rights_and_calls_are_filtered(status: Callable[[str], str]) -> None:
    if os.geteuid() == 0:
        assert status("Uid").split() == ["65534"] * 4
        assert status("Gid").split() == ["65534"] * 4
        assert int(status("CapBnd"), 16) == 0
    assert int(status("CapEff"), 16) == 0
    assert status("NoNewPrivs") == "1"
    assert status("Seccomp") == "2"


def test_qemu_sees_the_files_of_its_server_and_no_network(place: QemuPlace) -> None:
    place.create_volume("V1")
    place.create_volume("V2")
    place.launch("S1", "V1")
    place.launch("S2", "V2")
    process = place.process("S1")
    root = Path(f"/proc/{process.pid}/root")
    if not os.access(root / "vm", os.R_OK):
        pytest.skip("only root may look into the namespace of another process")

    assert {path.name for path in root.iterdir()} - {"bin", "sbin", "lib", "lib32", "lib64"} == {"dev", "usr", "vm"}
    assert sorted(path.name for path in (root / "vm").iterdir()) == ["0", "base0", "console.log", "run", "seed.iso"]
    assert [path.name for path in (root / "dev").iterdir()] == ["null"]
    interfaces = Path(f"/proc/{process.pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
    ours, other = namespaces("self"), namespaces(str(place.process("S2").pid))
    assert not set(namespaces(str(process.pid))) & {*ours, *other}


def namespaces(pid: str) -> list[str]:
    return [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("pid", "net", "mnt", "ipc", "uts")]


def test_a_base_is_read_as_it_is_whatever_it_refers_to(place: QemuPlace, tmp_path: Path) -> None:
    secret = tmp_path / "secret.raw"
    secret.write_bytes(b"secret!!" * (BLOCK // 8))
    hostile = tmp_path / "hostile.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(hostile), str(SIZE))
    hostile.chmod(0o444)
    place.do(place.hypervisor.create_volume(VolumeSpec("V1", SIZE, hostile)))

    async def content() -> bytes:
        async with place.hypervisor.reading(await place.hypervisor.point("V1")) as reader:
            return await asyncio.to_thread(read_all, reader)

    assert place.do(content()) == bytes(SIZE)
    place.do(place.hypervisor.release("V1"))
    place.launch()
    assert place.do(content()) == bytes(SIZE)
