"""The check of a stored image, confined: what it says of real disks, and what a reader that was taken over can do."""

import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from app.boot_readiness.report import BootReadiness, Firmware, Note, Support
from app.errors import ObjectMissing, StoreUnavailable
from app.lifecycle import Architecture
from app.s3_address import S3Address
from tests.servers.minio import Minio
from tests.support.tiny_linux import TinyLinux, Variant, Virtio
from tests.workers.images import make, qemu_img
from tests.workers.readiness.file_systems import Link, ext, fat, ntfs, xfs
from tests.workers.readiness.systems import ALL_DRIVERS, KERNEL, initramfs, linux, windows
from tests.workers.readiness.tables import BIOS_BOOT, GRUB, LINUX, Entry, gpt, mbr, physical_volume
from tests.workers.store_bench import StoreBench
from tests.workers.stored import stored, stored_sandbox
from workers.errors import Cancelled, QemuError, QemuFailed, QemuRefused, QemuStopped, QemuTimedOut, SourceDamaged
from workers.jobs.converters import StoredBlob
from workers.jobs.store_converter import StoreConverter
from workers.limits import Limits
from workers.readiness import check as checking
from workers.readiness import confined
from workers.readiness.check import check
from workers.readiness.confined import BOUNDS, ReaderFailed, read_confined
from workers.readiness.sources import from_file

pytestmark = pytest.mark.needs_program("bwrap", "qemu-img", "qemu-nbd", "mke2fs")

READY = BootReadiness(
    os_family="debian",
    os_version="12",
    architecture=Architecture.X86_64,
    firmware=Firmware.BIOS,
    virtio_blk=Support.PRESENT,
    virtio_net=Support.PRESENT,
    virtio_scsi=Support.PRESENT,
    cloud_init=Support.PRESENT,
)
NOT_CHECKED = BootReadiness.unknown(Note.CHECK_FAILED)


def said_of(path: Path, folder: Path, limits: Limits | None = None) -> BootReadiness:
    """What the check says of a qcow2 file; it leaves nothing in its folder."""
    workspace = folder / "job"
    with from_file(path, path.stat().st_size) as source:
        report = check(source, workspace, limits or Limits(), threading.Event())
    assert not workspace.exists()
    return report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("disks")
    yield folder
    shutil.rmtree(folder)


def qcow2(disk: bytes | Path, folder: Path, name: str) -> Path:
    """A disk as a stored image."""
    raw = disk if isinstance(disk, Path) else folder / f"{name}.raw"
    if isinstance(disk, bytes):
        raw.write_bytes(disk)
    path = make(raw, folder / f"{name}.qcow2", "qcow2")
    raw.unlink()
    return path


@pytest.fixture(scope="module")
def image(folder: Path) -> Path:
    return qcow2(mbr(Entry(ext(linux()))), folder, "image")


LATE = replace(READY, virtio_blk=Support.NOT_IN_INITRAMFS, virtio_scsi=Support.NOT_IN_INITRAMFS)
NONE = replace(READY, virtio_blk=Support.MISSING, virtio_scsi=Support.MISSING, virtio_net=Support.MISSING)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (Variant(), READY),
        (Variant(virtio=Virtio.LATE), LATE),
        (Variant(virtio=Virtio.NONE), NONE),
        (Variant(cloud_init=False), replace(READY, cloud_init=Support.MISSING)),
    ],
    ids=["ready", "late", "none", "no-cloud-init"],
)
def test_a_real_linux_is_described(
    tiny_linux: TinyLinux, tmp_path: Path, variant: Variant, expected: BootReadiness
) -> None:
    assert said_of(tiny_linux.qcow2(variant), tmp_path) == expected


@pytest.mark.needs_program("mkfs.xfs", "mkfs.vfat", "mcopy")
def test_a_disk_of_several_file_systems_is_described(folder: Path, tmp_path: Path) -> None:
    root = xfs({**linux("rocky", "9.4", early=None), "boot": None})
    boot = ext({f"initramfs-{KERNEL}.img": initramfs(ALL_DRIVERS)})
    esp = fat({"EFI/BOOT/BOOTX64.EFI": b"MZ"})
    volume = physical_volume([("swap", b""), ("root", root)])
    path = qcow2(gpt((BIOS_BOOT, b"core"), (LINUX, esp), (LINUX, boot), (LINUX, volume), code=GRUB), folder, "several")
    expected = replace(READY, os_family="rocky", os_version="9.4", firmware=Firmware.BOTH)
    assert said_of(path, tmp_path) == expected


@pytest.mark.needs_program("mkntfs")
def test_a_windows_is_described(folder: Path, tmp_path: Path) -> None:
    disk = mbr(Entry(ntfs(windows()), kind=0x07, active=True), code=b"\x33\xc0")
    path = qcow2(disk, folder, "windows")
    assert said_of(path, tmp_path) == replace(READY, os_family="windows", os_version="2022")


def test_an_empty_disk_is_unknown(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", str(tmp_path / "empty"), "1G")
    assert said_of(tmp_path / "empty", tmp_path) == BootReadiness.unknown(Note.NO_SYSTEM)


def test_a_stored_image_is_neither_changed_nor_linked(image: Path, tmp_path: Path) -> None:
    before = image.stat()
    assert said_of(image, tmp_path) == READY
    after = image.stat()
    for field in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_ctime_ns", "st_nlink"):
        assert getattr(after, field) == getattr(before, field)


def test_a_hostile_disk_is_unknown_and_no_error(folder: Path, tmp_path: Path) -> None:
    files = {
        **linux(early=None),
        "etc/os-release": Link("os-release"),
        "usr/bin": Link("usr/bin"),
        f"boot/initrd.img-{KERNEL}": b"\x1f\x8b" + os.urandom(5000),
    }
    files = {name: content for name, content in files.items() if not name.startswith("usr/bin/")}
    path = qcow2(mbr(Entry(b"XFSB" + os.urandom(9000)), Entry(ext(files))), folder, "hostile")
    report = said_of(path, tmp_path)
    assert (report.os_family, report.virtio_blk, report.cloud_init) == ("debian", Support.UNKNOWN, Support.UNKNOWN)
    assert set(report.notes) == {Note.DAMAGED_FILE_SYSTEM, Note.DAMAGED_INITRAMFS}


@pytest.mark.parametrize(
    "limits", [Limits(use_bubblewrap=False), Limits(use_bubblewrap=False, require_bubblewrap=True)]
)
def test_nothing_is_read_without_bubblewrap(image: Path, tmp_path: Path, limits: Limits) -> None:
    assert said_of(image, tmp_path, limits) == BootReadiness.unknown(Note.NOT_CONFINED)


def test_an_image_in_a_bucket_is_described(minio: Minio, image: Path, tmp_path: Path) -> None:
    address = S3Address.parse(minio.store_url("readiness"))
    with closing(StoreConverter(address, Limits())) as converter:
        converter.bucket.make()
        StoreBench(converter.bucket, tmp_path).put(image, "blobs/image")
        blob = StoredBlob("blobs/image", image.stat().st_size, "job_1", 1)
        assert converter.check_boot(blob, threading.Event()) == READY
        with pytest.raises(SourceDamaged):
            converter.check_boot(replace(blob, size=blob.size - 1), threading.Event())
        with pytest.raises(ObjectMissing):
            converter.check_boot(replace(blob, key="blobs/other"), threading.Event())


def test_nothing_is_read_without_qemu(image: Path, tmp_path: Path) -> None:
    assert said_of(image, tmp_path, Limits(qemu_img="/no/qemu-img")) == BootReadiness.unknown(Note.NOT_CONFINED)


def test_a_file_that_is_no_qcow2_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"garbage" * 1000)
    assert said_of(tmp_path / "file", tmp_path) == NOT_CHECKED


def test_a_file_that_is_shorter_than_recorded_is_damaged(image: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceDamaged), from_file(image, image.stat().st_size + 1):
        pass


@pytest.mark.parametrize("broken_from", [0, 1])
def test_a_store_that_is_away_is_not_the_fault_of_the_image(image: Path, tmp_path: Path, broken_from: int) -> None:
    with stored(image) as (file, source):
        file.broken_from = broken_from * image.stat().st_size // 2
        with pytest.raises(StoreUnavailable):
            check(source, tmp_path / "job", Limits(), threading.Event())
    assert not (tmp_path / "job").exists()


def test_a_check_can_be_cancelled(image: Path, tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with stored(image) as (_, source), pytest.raises(Cancelled):
        check(source, tmp_path / "job", Limits(), cancelled)
    assert not (tmp_path / "job").exists()


# ---------------------------------------------------------------- a reader that was taken over

Ran = Callable[[str], bytes]


@pytest.fixture
def ran(image: Path, tmp_path: Path) -> Iterator[Ran]:
    """Runs Python code in the place of the reader, connected to nobody; returns what it printed."""
    ours, theirs = socket.socketpair()
    with ours, theirs, stored_sandbox(image, tmp_path / "job") as (_, sandbox):
        bubblewrap = sandbox.confinement.bubblewrap
        assert bubblewrap is not None

        def run(program: str) -> bytes:
            bounds = replace(BOUNDS, cpu_seconds=1, wall_seconds=20)
            return read_confined(sandbox, bubblewrap, theirs, bounds=bounds, program=program)

        yield run


def test_it_sees_no_files_but_the_systems_and_its_own(ran: Ran) -> None:
    program = """
import os
print(sorted(set(os.listdir("/")) - {"usr", "bin", "sbin", "lib", "lib32", "lib64"}))
print(sorted(os.listdir("/dev")), sorted(os.listdir("/reader")), sorted(os.listdir("/reader/workers")))
print(os.getuid() != 0, len(os.environ))
"""
    top, rest, identity = ran(program).decode().splitlines()
    shown = [path for path in ("root", "home", "opt", "work") if f"'{path}'" in top]
    # Where Python is not the system's, its folder is shown, and nothing else in the folders above.
    assert len(shown) <= 1
    assert "'etc'" not in top
    assert "'proc'" not in top
    assert "'tmp'" not in top
    assert rest.startswith("['null'] ['app', ")
    assert rest.endswith("['errors.py', 'qemu', 'readiness']")
    assert identity.startswith("True")


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/reader/new', 'w')",
        "open('/tmp/new', 'w')",
        "open('/new', 'w')",
        "os.fork()",
        "os.execv('/usr/bin/env', ['env', 'true']) if os.posix_spawn('/usr/bin/true', ['true'], {}) else None",
        "__import__('threading').Thread(target=print).start()",
        "socket.create_connection(('127.0.0.1', 22), 1)",
        "socket.create_connection(('10.0.2.2', 80), 1)",
        "[os.dup(0) for _ in range(40)]",
        "bytearray(2 << 30)",
        "os.kill(1, 9) or os.setuid(0)",
        "os.chroot('/usr')",
    ],
)
def test_it_can_do_nothing_to_the_machine(ran: Ran, attempt: str) -> None:
    program = f"""
import os, socket
try:
    {attempt}
except (OSError, MemoryError, RuntimeError) as error:
    print("refused")
"""
    assert ran(program) == b"refused\n"


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("print('x' * 70_000)", ReaderFailed),
        ("while True: print('x' * 1000)", ReaderFailed),
        ("raise SystemExit(3)", QemuFailed),
        ("raise SystemExit(1)", QemuRefused),
        ("import os; os.abort()", QemuStopped),
        ("import ctypes; ctypes.string_at(0)", QemuStopped),
        ("while True: pass", QemuStopped),
    ],
)
def test_however_it_ends_it_has_a_name(ran: Ran, program: str, error: type[QemuError]) -> None:
    with pytest.raises(error):
        ran(program)


def test_a_reader_that_never_ends_is_stopped(image: Path, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, stored_sandbox(image, tmp_path / "job") as (_, sandbox):
        bounds = replace(BOUNDS, wall_seconds=1)
        with pytest.raises(QemuTimedOut):
            read_confined(
                sandbox, str(sandbox.confinement.bubblewrap), theirs, bounds=bounds, program="input(); input()"
            )
    assert [child for child in psutil.Process().children(recursive=True) if child.name() == "bwrap"] == []


@pytest.mark.parametrize(
    "program",
    [
        "print('garbage')",
        "pass",
        'print(\'{"os_family": "<script>"}\')',
        "raise SystemExit(1)",
        "raise SystemExit(3)",
        "import os; os.kill(os.getpid(), 11)",
        f"import os; os.write(0, {os.urandom(100)!r})",
    ],
)
def test_whatever_it_prints_the_image_is_unknown(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(checking, "read_confined", lambda *what: read_confined(*what, program=program))
    # Nobody waits for the server of a disk that has not ended.
    monkeypatch.setattr("workers.qemu.nbd._LAST_WORDS", 0.1)
    assert said_of(image, tmp_path) == NOT_CHECKED


def test_a_server_that_is_killed_makes_the_image_unknown(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*what: object) -> bytes:
        for child in psutil.Process().children(recursive=True):
            if child.name() == "qemu-nbd":
                child.send_signal(signal.SIGKILL)
        return read_confined(*what)  # type: ignore[arg-type]

    monkeypatch.setattr(checking, "read_confined", read)
    assert said_of(image, tmp_path) == NOT_CHECKED


def test_a_module_of_the_reader_that_is_missing_is_noticed(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confined, "_MODULES", ("no_such_module",))
    confined._modules.cache_clear()
    try:
        assert said_of(image, tmp_path) == NOT_CHECKED
    finally:
        confined._modules.cache_clear()
