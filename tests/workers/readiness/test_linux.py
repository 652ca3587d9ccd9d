"""What is said of a Linux: its release, where its drivers are, and cloud-init."""

import gzip
from collections.abc import Sequence

import pytest

from app.boot_readiness.report import BootReadiness, Firmware, Note, Support
from app.lifecycle import Architecture
from tests.support.tiny_linux import cpio
from tests.workers.readiness.file_systems import Files, Link, ext, fat
from tests.workers.readiness.systems import ALL_DRIVERS, ELF, ELF_ARM, KERNEL, initramfs, kernel, linux
from tests.workers.readiness.tables import BIOS_BOOT, GRUB, LINUX, Bytes, Entry, gpt, mbr, physical_volume
from workers.readiness.reader.linux import version_key
from workers.readiness.reader.survey import survey

pytestmark = pytest.mark.needs_program("mke2fs", "mkfs.vfat", "mcopy")

PRESENT, MISSING, LATE, UNKNOWN = Support.PRESENT, Support.MISSING, Support.NOT_IN_INITRAMFS, Support.UNKNOWN


def said_of(files: Files) -> BootReadiness:
    return survey(Bytes(mbr(Entry(ext(files)))))


def drivers(report: BootReadiness) -> tuple[Support, Support, Support]:
    return report.virtio_blk, report.virtio_scsi, report.virtio_net


def test_a_ready_linux_is_described_in_full() -> None:
    assert said_of(linux("ubuntu", "24.04")) == BootReadiness(
        os_family="ubuntu",
        os_version="24.04",
        architecture=Architecture.X86_64,
        firmware=Firmware.BIOS,
        virtio_blk=PRESENT,
        virtio_net=PRESENT,
        virtio_scsi=PRESENT,
        cloud_init=PRESENT,
    )


WITHOUT_BUS = tuple(name for name in ALL_DRIVERS if name != "virtio_pci")


@pytest.mark.parametrize(
    ("early", "modules", "builtin", "expected"),
    [
        (ALL_DRIVERS, ALL_DRIVERS, (), (PRESENT, PRESENT, PRESENT)),
        ((), (), ALL_DRIVERS, (PRESENT, PRESENT, PRESENT)),
        ((), ALL_DRIVERS, (), (LATE, LATE, PRESENT)),
        (("virtio_pci", "virtio_blk"), ALL_DRIVERS, (), (PRESENT, LATE, PRESENT)),
        (("virtio_pci", "virtio_blk", "virtio_scsi"), ALL_DRIVERS, ("sd_mod",), (PRESENT, PRESENT, PRESENT)),
        (("virtio_pci", "virtio_blk", "virtio_scsi"), ALL_DRIVERS, (), (PRESENT, LATE, PRESENT)),
        ((), (), (), (MISSING, MISSING, MISSING)),
        # Each of them needs the bus.
        (WITHOUT_BUS, ALL_DRIVERS, (), (LATE, LATE, PRESENT)),
        (WITHOUT_BUS, WITHOUT_BUS, (), (MISSING, MISSING, MISSING)),
        (WITHOUT_BUS, WITHOUT_BUS, ("virtio_pci",), (PRESENT, PRESENT, PRESENT)),
        (("virtio_pci",), ("virtio_pci", "virtio_net"), (), (MISSING, MISSING, PRESENT)),
        (ALL_DRIVERS, ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"), (), (PRESENT, PRESENT, MISSING)),
    ],
)
def test_a_driver_is_where_the_newest_kernel_finds_it(
    early: Sequence[str], modules: Sequence[str], builtin: Sequence[str], expected: tuple[Support, Support, Support]
) -> None:
    files = linux(early=early, drivers=kernel(modules=modules, builtin=builtin))
    assert drivers(said_of(files)) == expected


def test_a_driver_without_what_it_needs_is_not_in_the_initramfs() -> None:
    content = initramfs(ALL_DRIVERS).replace(b"/virtio_ring.ko", b"/virtio_rong.ko")
    files = linux(early=None, boot={f"boot/initrd.img-{KERNEL}": content})
    assert drivers(said_of(files)) == (LATE, LATE, PRESENT)


@pytest.mark.parametrize("suffix", ["", ".xz", ".zst", ".gz"])
def test_names_are_compared_as_the_kernel_compares_them(suffix: str) -> None:
    files = linux(
        early=None,
        drivers=kernel(suffix=suffix),
        boot={f"boot/initrd.img-{KERNEL}": initramfs(ALL_DRIVERS, suffix=suffix).replace(b"virtio_", b"virtio-")},
    )
    assert drivers(said_of(files)) == (PRESENT, PRESENT, PRESENT)


def test_the_newest_kernel_counts_and_a_folder_without_lists_is_none() -> None:
    old, newer = "6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64"
    files: Files = {
        **linux(early=None, drivers={}),
        **kernel(old),
        **kernel(newer),
        "usr/lib/modules/9.9.9-removed/updates": None,
        f"boot/initrd.img-{old}": initramfs(ALL_DRIVERS, old),
        f"boot/initrd.img-{newer}": initramfs(["virtio_pci"], newer),
    }
    assert drivers(said_of(files)) == (LATE, LATE, PRESENT)


def test_versions_of_kernels_are_sorted_as_numbers() -> None:
    versions = ["5.14.0-70.el9", "5.14.0-362.8.1.el9_3", "6.2.0-rc1", "6.2.0-1", "6.10.0-1", "6.10.0-1-cloud"]
    assert sorted(reversed(versions), key=version_key) == versions


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (f"boot/initramfs-{KERNEL}.img", {}),
        (f"boot/initrd-{KERNEL}", {}),
        ("boot/initramfs-amd64", {}),
        ("boot/initramfs-linux-lts.img", {f"usr/lib/modules/{KERNEL}/pkgbase": b"linux-lts\n"}),
        (f"boot/0123456789abcdef/{KERNEL}/initrd", {"etc/machine-id": b"0123456789abcdef\n"}),
        (f"boot/token/{KERNEL}/initrd", {"etc/kernel/entry-token": b"token\n"}),
        ("boot/real", {f"boot/initrd.img-{KERNEL}": Link("real")}),
    ],
)
def test_an_initramfs_is_found_where_distributions_put_it(path: str, more: Files) -> None:
    files: Files = {**linux(early=None), path: initramfs(ALL_DRIVERS), **more}
    assert drivers(said_of(files)) == (PRESENT, PRESENT, PRESENT)


def test_boot_may_be_another_partition_and_the_root_a_logical_volume() -> None:
    root = ext({**linux(early=None), "boot": None})
    boot = ext({f"initrd.img-{KERNEL}": gzip.compress(initramfs(ALL_DRIVERS))}, kind="ext2")
    esp = fat({"EFI/BOOT/BOOTX64.EFI": b"MZ"})
    disk = gpt((BIOS_BOOT, b"core"), (LINUX, esp), (LINUX, boot), (LINUX, physical_volume([("root", root)])), code=GRUB)
    report = survey(Bytes(disk))
    assert drivers(report) == (PRESENT, PRESENT, PRESENT)
    assert (report.firmware, report.notes) == (Firmware.BOTH, ())


@pytest.mark.parametrize(
    ("boot", "note"),
    [
        ({}, Note.NO_INITRAMFS),
        ({f"boot/initrd.img-{KERNEL}": b"garbage"}, Note.DAMAGED_INITRAMFS),
        ({f"boot/initrd.img-{KERNEL}": initramfs(ALL_DRIVERS)[:700]}, Note.DAMAGED_INITRAMFS),
    ],
)
def test_an_initramfs_that_can_not_be_read_makes_drivers_unknown(boot: Files, note: Note) -> None:
    report = said_of(linux(early=None, boot=boot))
    assert drivers(report) == (UNKNOWN, UNKNOWN, PRESENT)
    assert report.notes == (note,)


def test_a_kernel_that_needs_no_module_needs_no_initramfs() -> None:
    report = said_of(linux(early=None, drivers=kernel(modules=(), builtin=ALL_DRIVERS)))
    assert (drivers(report), report.notes) == ((PRESENT, PRESENT, PRESENT), ())


def test_a_unified_kernel_is_not_looked_into() -> None:
    esp = fat({"EFI/Linux/arch.efi": b"MZ", "EFI/BOOT/BOOTX64.EFI": b"MZ"})
    report = survey(Bytes(gpt((LINUX, esp), (LINUX, ext(linux(early=None))))))
    assert (drivers(report), report.notes) == ((UNKNOWN, UNKNOWN, PRESENT), (Note.UNIFIED_KERNEL,))
    assert report.firmware is Firmware.UEFI


@pytest.mark.parametrize("nested", ["squashfs-root.img", "squash-root.img", "erofs-root.img"])
def test_modules_in_an_image_within_the_initramfs_are_unknown(nested: str) -> None:
    content = cpio([("init", 0o100755, b"#!"), (nested, 0o100644, b"hsqs")])
    report = said_of(linux(early=None, boot={f"boot/initrd.img-{KERNEL}": content}))
    assert (drivers(report), report.notes) == ((UNKNOWN, UNKNOWN, PRESENT), (Note.DAMAGED_INITRAMFS,))


@pytest.mark.parametrize("without", [("modules.dep",), ("modules.dep", "modules.builtin")])
def test_a_kernel_without_its_lists_is_unknown(without: tuple[str, ...]) -> None:
    lists = {path: text for path, text in kernel(builtin=["ext4"]).items() if not path.endswith(without)}
    assert drivers(said_of(linux(early=(), drivers=lists))) == (UNKNOWN, UNKNOWN, UNKNOWN)


def test_a_system_without_a_kernel_is_unknown() -> None:
    report = said_of(linux(drivers={}))
    assert (drivers(report), report.notes) == ((UNKNOWN, UNKNOWN, UNKNOWN), (Note.NO_KERNEL,))


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({}, PRESENT),
        ({"etc/cloud/cloud-init.disabled": b""}, Support.DISABLED),
        ({"etc/systemd/system/cloud-init.service": Link("/dev/null")}, Support.DISABLED),
        ({"etc/systemd/system/cloud-init-main.service": Link("/dev/null")}, Support.DISABLED),
        ({"etc/systemd/system/cloud-init.service": Link("/lib/systemd/system/cloud-init.service")}, PRESENT),
    ],
)
def test_cloud_init_may_be_disabled(files: Files, state: Support) -> None:
    base = {path: content for path, content in linux().items() if path not in files}
    assert said_of({**base, **files}).cloud_init is state


@pytest.mark.parametrize("path", ["usr/bin/cloud-init", "etc/cloud/cloud.cfg"])
def test_half_of_cloud_init_is_none(path: str) -> None:
    assert said_of({name: content for name, content in linux().items() if name != path}).cloud_init is MISSING


def test_programs_on_another_file_system_are_unknown() -> None:
    report = said_of({"etc/os-release": b"ID=debian\n", "usr": None, "etc/cloud/cloud.cfg": b""})
    assert (report.cloud_init, report.os_family) == (UNKNOWN, "debian")


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        (b"ID=ubuntu\nVERSION_ID='24.04'\n", ("ubuntu", "24.04")),
        (b'VERSION_ID="9.4"\r\nID="rocky"\r\n', ("rocky", "9.4")),
        (b"ID=opensuse-leap\nVERSION_ID=15.6\nID_LIKE=suse\n", ("opensuse-leap", "15.6")),
        (b"ID=ARCH\n", ("arch", None)),
        (b"NAME=x\n", ("linux", None)),
        (b"", ("linux", None)),
        (b"ID=<script>\nVERSION_ID=$(id)\n", ("linux", None)),
        (b"ID=" + b"a" * 65 + b"\nVERSION_ID=" + b"1" * 65, ("linux", None)),
        (b"ID=deb\xffian\nVERSION_ID=1\x002\n", ("linux", None)),
    ],
)
def test_the_release_is_spelled_as_in_the_catalogue(release: bytes, expected: tuple[str, str | None]) -> None:
    report = said_of({"etc/os-release": release})
    assert (report.os_family, report.os_version) == expected


@pytest.mark.parametrize(
    ("program", "expected"),
    [(ELF, Architecture.X86_64), (ELF_ARM, Architecture.AARCH64), (b"#!/bin/sh\n", None), (ELF[:18] + b"\x08\0", None)],
)
def test_the_architecture_is_that_of_its_programs(program: bytes, expected: Architecture | None) -> None:
    assert said_of({"etc/os-release": b"", "sbin/init": program}).architecture is expected


def test_a_second_system_is_noted_and_the_first_described() -> None:
    disk = mbr(Entry(ext(linux("debian"))), Entry(ext(linux("fedora"))))
    report = survey(Bytes(disk))
    assert (report.os_family, report.notes) == ("debian", (Note.SEVERAL_SYSTEMS,))


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (bytes(1 << 20), (Note.NO_SYSTEM,)),
        (b"LUKS\xba\xbe\0\2" + bytes(1 << 20), (Note.ENCRYPTED, Note.NO_SYSTEM)),
        (bytes(65600) + b"_BHRfS_M" + bytes(1 << 20), (Note.UNSUPPORTED_FILE_SYSTEM, Note.NO_SYSTEM)),
        (b"XFSB" + b"\xff" * (1 << 20), (Note.DAMAGED_FILE_SYSTEM, Note.NO_SYSTEM)),
        (bytes(512) + b"LABELONE" + b"\xff" * (1 << 20), (Note.DAMAGED_VOLUME_GROUP, Note.NO_SYSTEM)),
    ],
)
def test_a_disk_without_a_system_that_can_be_read_is_unknown(content: bytes, notes: tuple[Note, ...]) -> None:
    assert survey(Bytes(mbr(Entry(content), code=b""))) == BootReadiness(notes=notes)


def test_a_file_system_of_data_is_no_system() -> None:
    assert said_of({"home/file": b"x", "boot/vmlinuz": b"MZ"}).notes == (Note.NO_SYSTEM,)


@pytest.mark.parametrize(
    ("disk", "expected"),
    [
        (mbr(Entry(b"x"), code=GRUB), Firmware.BIOS),
        (mbr(Entry(b"x", active=True), code=b"\xfa\x33"), Firmware.BIOS),
        (mbr(Entry(b"x"), code=b"\xfa\x33"), Firmware.UNKNOWN),
        (mbr(Entry(b"x", active=True), code=b""), Firmware.UNKNOWN),
        (gpt((BIOS_BOOT, b"core"), code=b"\xeb\x63"), Firmware.BIOS),
        (gpt((LINUX, b"x"), code=b"\xfa\x33"), Firmware.UNKNOWN),
        (bytes(1 << 20), Firmware.UNKNOWN),
    ],
)
def test_a_bios_needs_boot_code_and_what_it_boots(disk: bytes, expected: Firmware) -> None:
    assert survey(Bytes(disk)).firmware is expected


def test_a_disk_without_partitions_may_hold_a_system() -> None:
    assert survey(Bytes(ext(linux("alpine", "3.20.1")))).os_family == "alpine"
