"""A stored image read through qemu-nbd, both of them shut in: the same disk as ever, and a name for what goes wrong."""

import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from app.errors import ImageFailed, StoreUnavailable
from app.lifecycle import DiskFormat, FailureCode
from tests.workers.conftest import WITH_AND_WITHOUT_BUBBLEWRAP
from tests.workers.images import KiB, MiB, edit_vhd_footer, make, raw_disk, scattered_disk
from tests.workers.stored import stored, stored_sandbox
from workers.convert.blame import blaming_image
from workers.convert.planning import how_to_open
from workers.errors import Cancelled, QemuError, QemuFailed, QemuRefused, QemuStopped, QemuTimedOut
from workers.inspection.inspect import inspect
from workers.inspection.reported import check_reported
from workers.limits import Bounds, Limits
from workers.qemu import img
from workers.qemu.nbd import Export, export
from workers.qemu.nbd_client import HOLE, READ_SIZE, ZERO, NbdClient
from workers.qemu.processes import run_for_output
from workers.store.nbd_server import listen

pytestmark = pytest.mark.needs_program("qemu-img", "qemu-nbd")

AMPLE = Bounds(memory=1 << 30, cpu_seconds=60, wall_seconds=60)

KINDS = {
    "qcow2": (DiskFormat.QCOW2, "qcow2", {}),
    "vmdk": (DiskFormat.VMDK, "vmdk", {}),
    "stream": (DiskFormat.VMDK, "vmdk", {"subformat": "streamOptimized"}),
    "vhd": (DiskFormat.VHD, "vpc", {"force_size": "on"}),
    "fixed-vhd": (DiskFormat.VHD, "vpc", {"subformat": "fixed", "force_size": "on"}),
    "vhdx": (DiskFormat.VHDX, "vhdx", {"block_size": "1M"}),
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scattered_disk(tmp_path_factory.mktemp("disk") / "disk.raw")


@pytest.fixture
def vmdk(disk: Path, tmp_path: Path) -> Path:
    return make(disk, tmp_path / "image", "vmdk")


def data_of(client: NbdClient) -> Iterator[tuple[int, memoryview]]:
    """Where there is data, and room to read it into."""
    place = 0
    for length, flags in client.block_status(0, client.size):
        for begin in range(place, place + length, READ_SIZE) if not flags & ZERO else ():
            yield begin, memoryview(bytearray(min(READ_SIZE, place + length - begin)))
        place += length


def disk_read_by(client: NbdClient) -> bytes:
    """The whole disk: what the client reads where there is data, and zeros."""
    disk = bytearray(client.size)
    for offset, content in client.read_many(data_of(client)):
        disk[offset : offset + len(content)] = content
    return bytes(disk)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bubblewrap", WITH_AND_WITHOUT_BUBBLEWRAP)
def test_every_format_reads_as_the_disk_that_it_holds(disk: Path, tmp_path: Path, kind: str, bubblewrap: bool) -> None:
    declared, driver, options = KINDS[kind]
    path = make(disk, tmp_path / "image", driver, **options)
    with stored_sandbox(path, tmp_path / "job", Limits(use_bubblewrap=bubblewrap)) as (file, sandbox):
        image = how_to_open(inspect(sandbox.source.read_at, declared, file.size)).on_socket()
        info = img.info(sandbox, image, AMPLE)
        assert check_reported(info, image.name, 1 << 40) == disk.stat().st_size
        with export(sandbox, image, AMPLE) as running, running.connect() as client:
            assert disk_read_by(client) == disk.read_bytes()


def test_an_option_of_the_driver_counts_on_a_socket_too(tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "disk.raw", 5 * MiB + 512, [(0, 5 * MiB + 512)])
    path = make(raw, tmp_path / "image", "vpc", subformat="fixed", force_size="on")
    edit_vhd_footer(path, (28, b"vbox"), (56, bytes([0, 64, 4, 17])))
    with stored_sandbox(path, tmp_path / "job") as (_, sandbox):
        image = img.source("vpc", "force_size_calc=current_size").on_socket()
        assert img.info(sandbox, image, AMPLE)["virtual-size"] == 5 * MiB + 512
        smaller = img.source("vpc", "force_size_calc=chs").on_socket()
        assert img.info(sandbox, smaller, AMPLE)["virtual-size"] == 64 * 4 * 17 * 512


def test_the_map_and_the_check_are_those_of_the_file(disk: Path, tmp_path: Path) -> None:
    path = make(disk, tmp_path / "image", "qcow2")
    with stored_sandbox(path, tmp_path / "job") as (_, sandbox):
        image = img.source("qcow2").on_socket()
        found = img.map_extents(sandbox, image, AMPLE, 1000)
        report = img.check(sandbox, image, AMPLE)
    assert report.clean
    assert report.end_offset == path.stat().st_size
    content, raw = path.read_bytes(), disk.read_bytes()
    assert not found.unplaced
    assert found.extents.data_size >= 5 * MiB
    for start, length, offset in found.extents:
        assert content[offset : offset + length] == raw[start : start + length]


def test_only_a_socket_lies_in_the_folder_and_it_is_gone_afterwards(vmdk: Path, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with stored_sandbox(vmdk, tmp_path / "job") as (_, sandbox):
        with export(sandbox, img.source("vmdk").on_socket(), AMPLE) as running, running.connect():
            inside = {path.relative_to(sandbox.folder).as_posix(): path for path in sandbox.folder.rglob("*")}
            assert set(inside) == {"out", "out/disk.sock", "source.sock"}
            assert inside["source.sock"].is_socket()
            assert inside["out/disk.sock"].is_socket()
    assert not (tmp_path / "job").exists()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("bubblewrap", WITH_AND_WITHOUT_BUBBLEWRAP)
def test_a_folder_far_away_will_do(vmdk: Path, disk: Path, tmp_path: Path, bubblewrap: bool) -> None:
    folder = tmp_path / ("a" * 60) / ("b" * 60) / ("c" * 60)
    with stored_sandbox(vmdk, folder, Limits(use_bubblewrap=bubblewrap)) as (_, sandbox):
        with export(sandbox, img.source("vmdk").on_socket(), AMPLE) as running, running.connect() as client:
            assert client.size == disk.stat().st_size


@pytest.mark.parametrize("bubblewrap", WITH_AND_WITHOUT_BUBBLEWRAP)
def test_the_process_may_connect_to_its_source_and_not_replace_it(vmdk: Path, tmp_path: Path, bubblewrap: bool) -> None:
    script = """id -u; (rm -f source.sock) 2>&-; test -S source.sock && echo kept; (echo x > new) 2>&- || echo none
        exec /usr/bin/perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0);
        print connect(S, sockaddr_un("source.sock")) ? "in" : "out: $!"'"""
    with stored_sandbox(vmdk, tmp_path / "job", Limits(use_bubblewrap=bubblewrap)) as (_, sandbox):
        sandbox.confinement = replace(sandbox.confinement, qemu_img="/bin/sh")
        said = run_for_output(sandbox, ["-c", script], AMPLE).decode().split()
    if os.geteuid() == 0 or bubblewrap:
        assert said[1:] == ["kept", "none", "in"]
    assert said[0] == ("65534" if os.geteuid() == 0 else str(os.geteuid()))


def test_several_connections_read_at_the_same_time(disk: Path, vmdk: Path, tmp_path: Path) -> None:
    with stored_sandbox(vmdk, tmp_path / "job") as (_, sandbox):
        with export(sandbox, img.source("vmdk").on_socket(), AMPLE, connections=3) as running:

            def read(_: int) -> bytes:
                with running.connect() as client:
                    return disk_read_by(client)

            with ThreadPoolExecutor(3) as pool:
                assert set(pool.map(read, range(3))) == {disk.read_bytes()}


def test_any_range_is_read_exactly(disk: Path, vmdk: Path, tmp_path: Path) -> None:
    content = disk.read_bytes()
    numbers = random.Random(4)
    with stored_sandbox(vmdk, tmp_path / "job") as (_, sandbox):
        with export(sandbox, img.source("vmdk").on_socket(), AMPLE) as running, running.connect() as client:
            for _ in range(50):
                offset = numbers.randrange(client.size)
                buffer = bytearray(min(numbers.choice([1, 700, 80 * KiB, 5 * MiB]), client.size - offset))
                client.read_into(offset, memoryview(buffer))
                assert buffer == content[offset : offset + len(buffer)]


def test_the_status_has_every_byte_once_and_no_two_alike_in_a_row(disk: Path, vmdk: Path, tmp_path: Path) -> None:
    with stored_sandbox(vmdk, tmp_path / "job") as (_, sandbox):
        with export(sandbox, img.source("vmdk").on_socket(), AMPLE) as running, running.connect() as client:
            found = client.block_status(0, client.size)
            assert sum(length for length, _ in found) == client.size
            assert all(one[1] != other[1] for one, other in pairwise(found))
            assert {flags for _, flags in found} == {0, HOLE | ZERO}
            assert sum(length for length, flags in found if not flags) <= 6 * MiB
            assert client.block_status(4 * MiB, 64 * KiB) == [(64 * KiB, HOLE | ZERO)]
            assert client.block_status(0, 1000) == [(1000, 0)]


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda path: path.write_bytes(bytes(MiB)), "invalid VMDK image descriptor"),
        (lambda path: os.truncate(path, 900), "truncated"),
    ],
)
def test_an_image_that_qemu_does_not_open_is_refused_at_the_start(
    vmdk: Path, tmp_path: Path, spoil: Spoil, complaint: str
) -> None:
    spoil(vmdk)
    with stored_sandbox(vmdk, tmp_path / "job") as (_, sandbox):
        with pytest.raises(QemuRefused, match=complaint), export(sandbox, img.source("vmdk").on_socket(), AMPLE):
            pass


def test_a_damaged_grain_is_the_fault_of_the_image(disk: Path, tmp_path: Path) -> None:
    path = make(disk, tmp_path / "image", "vmdk", subformat="streamOptimized")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 256 * KiB] = b"\xee" * (256 * KiB)
    path.write_bytes(content)
    with stored_sandbox(path, tmp_path / "job") as (_, sandbox):
        with pytest.raises(ImageFailed) as caught, blaming_image():
            with export(sandbox, img.source("vmdk").on_socket(), AMPLE) as running, running.connect() as client:
                disk_read_by(client)
    assert caught.value.code is FailureCode.CORRUPT_IMAGE


@pytest.mark.parametrize("broken_from", [0, 2 * MiB])
def test_a_store_that_is_away_is_not_the_fault_of_the_image(vmdk: Path, tmp_path: Path, broken_from: int) -> None:
    with stored_sandbox(vmdk, tmp_path / "job") as (file, sandbox):
        file.broken_from = broken_from
        with pytest.raises(StoreUnavailable), blaming_image():
            with export(sandbox, img.source("vmdk").on_socket(), AMPLE) as running, running.connect() as client:
                disk_read_by(client)


@pytest.mark.parametrize("ask", [img.info, lambda one, image, bounds: img.map_extents(one, image, bounds, 9)])
def test_nor_is_it_when_qemu_img_reads(vmdk: Path, tmp_path: Path, ask: Callable[..., object]) -> None:
    with stored_sandbox(vmdk, tmp_path / "job") as (file, sandbox):
        file.broken_from = 0
        with pytest.raises(StoreUnavailable), blaming_image():
            ask(sandbox, img.source("vmdk").on_socket(), AMPLE)


def processes_of(program: str) -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.name() == program]


def test_a_qemu_nbd_that_is_killed_is_noticed_and_named(vmdk: Path, tmp_path: Path) -> None:
    with stored_sandbox(vmdk, tmp_path / "job") as (_, sandbox):
        image = img.source("vmdk").on_socket()
        with pytest.raises(QemuStopped) as caught, export(sandbox, image, AMPLE) as running:
            reading_for_ever(running, lambda: processes_of("qemu-nbd")[0].send_signal(signal.SIGKILL))
    assert caught.value.signal == signal.SIGKILL
    assert not processes_of("qemu-nbd")


def reading_for_ever(running: Export, then: Callable[[], object]) -> None:
    """Read again and again; after the first time something happens."""
    with running.connect() as client:
        disk_read_by(client)
        then()
        while True:
            client.read_into(0, memoryview(bytearray(MiB)))


def test_a_wish_to_cancel_ends_it(vmdk: Path, tmp_path: Path) -> None:
    cancelled = threading.Event()
    with stored_sandbox(vmdk, tmp_path / "job", cancelled=cancelled) as (_, sandbox):
        with pytest.raises(Cancelled), export(sandbox, img.source("vmdk").on_socket(), AMPLE) as running:
            reading_for_ever(running, cancelled.set)
    assert not processes_of("qemu-nbd")


def test_it_has_its_time_and_no_more(vmdk: Path, tmp_path: Path) -> None:
    with stored_sandbox(vmdk, tmp_path / "job") as (_, sandbox):
        short = replace(AMPLE, wall_seconds=1.0)
        with pytest.raises(QemuTimedOut), export(sandbox, img.source("vmdk").on_socket(), short) as running:
            reading_for_ever(running, lambda: None)


def test_what_goes_wrong_in_the_block_for_other_reasons_stays_what_it_is(vmdk: Path, tmp_path: Path) -> None:
    with stored_sandbox(vmdk, tmp_path / "job") as (_, sandbox):
        with pytest.raises(LookupError), export(sandbox, img.source("vmdk").on_socket(), AMPLE):
            raise LookupError
    assert not processes_of("qemu-nbd")


@pytest.fixture
def impostor(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Limits]:
    """Limits with a shell script of ours in the place of qemu-nbd."""

    def make_one(script: str) -> Limits:
        folder = tmp_path_factory.mktemp("impostor")
        for above in (folder, *folder.parents[:3]):
            if above.stat().st_uid == os.geteuid():
                above.chmod(0o755)
        program = folder / "qemu-nbd"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return Limits(qemu_nbd=str(program), use_bubblewrap=False)

    return make_one


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo 'qemu-nbd: no' >&2; exit 1", QemuRefused),
        ("kill -SEGV $$", QemuStopped),
        ("echo 'prlimit: no' >&2; exit 1", QemuFailed),
        ("exit 0", QemuRefused),
        ("exec sleep 1000", QemuTimedOut),
        ("touch out/disk.sock; exec sleep 1000", QemuTimedOut),
    ],
)
def test_whatever_happens_at_the_start_has_a_name(
    vmdk: Path, tmp_path: Path, impostor: Callable[[str], Limits], script: str, error: type[QemuError]
) -> None:
    with stored_sandbox(vmdk, tmp_path / "job", impostor(script)) as (_, sandbox):
        bounds = replace(AMPLE, wall_seconds=0.5)
        with pytest.raises(error), export(sandbox, img.source("vmdk").on_socket(), bounds):
            pass


def test_a_link_in_the_place_of_the_socket_leads_nowhere(
    vmdk: Path, tmp_path: Path, impostor: Callable[[str], Limits]
) -> None:
    with listen(tmp_path, "other") as other:
        other.setblocking(False)
        limits = impostor(f"ln -s {tmp_path}/other out/disk.sock; exec sleep 1000")
        with stored_sandbox(vmdk, tmp_path / "job", limits) as (_, sandbox):
            bounds = replace(AMPLE, wall_seconds=0.5)
            with pytest.raises(QemuTimedOut), export(sandbox, img.source("vmdk").on_socket(), bounds):
                pass
        with pytest.raises(BlockingIOError):
            other.accept()


def test_a_program_that_is_not_installed_is_named(vmdk: Path, tmp_path: Path) -> None:
    with stored_sandbox(vmdk, tmp_path / "job", Limits(qemu_nbd="qemu-nbd-is-not-here")) as (_, sandbox):
        with pytest.raises(QemuFailed, match="qemu-nbd-is-not-here"):
            with export(sandbox, img.source("vmdk").on_socket(), AMPLE):
                pass


def test_a_tiny_folder_is_room_enough(vmdk: Path, disk: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    if os.geteuid() != 0 or not mount_tiny(full):
        pytest.skip("only root can mount a tiny filesystem")
    try:
        (full / "filler").write_bytes(bytes(60 * KiB))
        with stored_sandbox(vmdk, full / "job") as (_, sandbox):
            with export(sandbox, img.source("vmdk").on_socket(), AMPLE) as running, running.connect() as client:
                assert disk_read_by(client) == disk.read_bytes()
    finally:
        unmount(full)


def mount_tiny(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True, timeout=60)


def test_a_raw_source_needs_no_qemu(disk: Path) -> None:
    with stored(disk) as (_, source):
        assert inspect(source.read_at, DiskFormat.RAW, source.size).facts is None
