"""What is said of a Windows, by its registry and its files."""

import pytest

from app.boot_readiness.report import BootReadiness, Firmware, Note, Support
from app.lifecycle import Architecture
from tests.workers.readiness.file_systems import Files, fat, ntfs
from tests.workers.readiness.hives import Key
from tests.workers.readiness.systems import windows
from tests.workers.readiness.tables import LINUX, Bytes, Entry, gpt, mbr
from workers.readiness.reader.survey import survey

pytestmark = pytest.mark.needs_program("mkntfs", "mkfs.vfat", "mcopy")

PRESENT, MISSING, DISABLED, UNKNOWN = Support.PRESENT, Support.MISSING, Support.DISABLED, Support.UNKNOWN


def said_of(files: Files) -> BootReadiness:
    return survey(Bytes(mbr(Entry(ntfs(files), kind=0x07, active=True), code=b"\x33\xc0")))


def test_a_ready_windows_is_described_in_full() -> None:
    esp = fat({"EFI/Boot/bootx64.efi": b"MZ", "EFI/Microsoft/Boot/bootmgfw.efi": b"MZ"})
    assert survey(Bytes(gpt((LINUX, esp), (LINUX, ntfs(windows()))))) == BootReadiness(
        os_family="windows",
        os_version="2022",
        architecture=Architecture.X86_64,
        firmware=Firmware.UEFI,
        virtio_blk=PRESENT,
        virtio_net=PRESENT,
        virtio_scsi=PRESENT,
        cloud_init=PRESENT,
    )


@pytest.mark.parametrize(
    ("build", "installation", "version"),
    [
        ("14393", "Server", "2016"),
        ("17763", "Server Core", "2019"),
        ("26100", "Server", "2025"),
        ("26100", "Client", "11"),
        ("19045", "Client", "10"),
        ("31337", "Server", "31337"),
        ("next", "Server", None),
        ("\u0661", "Server", None),
        ("9" * 40, "Server", None),
    ],
)
def test_the_version_follows_from_the_build(build: str, installation: str, version: str | None) -> None:
    assert said_of(windows(build=build, installation=installation)).os_version == version


def test_a_windows_without_drivers_and_cloudbase_init_lacks_them() -> None:
    report = said_of(windows(services={}, files=(), cloudbase=False))
    assert (report.virtio_blk, report.virtio_scsi, report.virtio_net) == (MISSING, MISSING, MISSING)
    assert (report.cloud_init, report.firmware) == (MISSING, Firmware.BIOS)


@pytest.mark.parametrize(
    ("service", "files", "expected"),
    [
        ({"Start": 0}, ["viostor"], PRESENT),
        ({"Start": 3}, ["viostor"], DISABLED),
        ({"Start": 4}, ["viostor"], DISABLED),
        ({"Start": 0, "StartOverride": {"0": 3}}, ["viostor"], DISABLED),
        ({"Start": 0, "StartOverride": {"0": 0}}, ["viostor"], PRESENT),
        ({"Start": 0}, [], MISSING),
        ({"Start": "0"}, ["viostor"], DISABLED),
        ({}, ["viostor"], MISSING),
    ],
)
def test_a_disk_driver_has_to_start_with_windows(service: Key, files: list[str], expected: Support) -> None:
    assert said_of(windows(services={"viostor": service}, files=files)).virtio_blk is expected


@pytest.mark.parametrize(("start", "expected"), [(0, PRESENT), (3, PRESENT), (4, DISABLED)])
def test_a_network_driver_may_start_later(start: int, expected: Support) -> None:
    assert said_of(windows(services={"netkvm": {"Start": start}})).virtio_net is expected


@pytest.mark.parametrize(("start", "expected"), [(2, PRESENT), (3, DISABLED), (4, DISABLED)])
def test_cloudbase_init_may_be_disabled(start: int, expected: Support) -> None:
    assert said_of(windows(services={"cloudbase-init": {"Start": start}})).cloud_init is expected


@pytest.mark.parametrize("content", [b"", b"garbage", b"regf" + bytes(8188)])
def test_a_registry_that_can_not_be_read_makes_drivers_unknown(content: bytes) -> None:
    report = said_of({**windows(), "Windows/System32/config/SYSTEM": content})
    assert (report.os_family, report.virtio_blk, report.virtio_net) == ("windows", UNKNOWN, UNKNOWN)
    assert report.notes == (Note.DAMAGED_REGISTRY,)


def test_without_the_other_hive_only_the_version_is_unknown() -> None:
    report = said_of({path: content for path, content in windows().items() if not path.endswith("SOFTWARE")})
    assert (report.os_version, report.virtio_blk, report.notes) == (None, PRESENT, (Note.DAMAGED_REGISTRY,))
