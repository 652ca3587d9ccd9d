"""The files of made-up systems: as few as a check reads."""

import gzip
import struct
from collections.abc import Sequence

from tests.support.tiny_linux import cpio
from tests.workers.readiness.file_systems import Files, Link
from tests.workers.readiness.hives import Key, hive

KERNEL = "6.1.0-18-cloud-amd64"
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 62)
ELF_ARM = ELF[:18] + struct.pack("<H", 183)
ALL_DRIVERS = ("virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "sd_mod")
_NEEDS = {"virtio_pci": ("virtio", "virtio_ring"), "virtio_net": ("net_failover",)}


def initramfs(modules: Sequence[str], version: str = KERNEL, suffix: str = "") -> bytes:
    """One plain archive with these modules."""
    folder = f"usr/lib/modules/{version}/kernel/drivers"
    entries = [("init", 0o100755, b"#!/bin/sh\n"), (folder, 0o040755, b"")]
    return cpio([*entries, *((f"{folder}/{name}.ko{suffix}", 0o100644, b"\0" * 700) for name in with_needs(modules))])


def with_needs(modules: Sequence[str]) -> list[str]:
    """The modules, and those that they need."""
    return [name for module in modules for name in (*_NEEDS.get(module, ()), module)]


def kernel(
    version: str = KERNEL, *, modules: Sequence[str] = ALL_DRIVERS, builtin: Sequence[str] = (), suffix: str = ""
) -> Files:
    """The lists of a kernel's modules, as depmod writes them."""
    folder = "kernel/drivers"

    def path(name: str) -> str:
        return f"{folder}/{name}.ko{suffix}"

    lines = [
        f"{path(name)}:{''.join(' ' + path(needed) for needed in _NEEDS.get(name, ()))}\n"
        for name in dict.fromkeys(with_needs(modules))
    ]
    return {
        f"usr/lib/modules/{version}/modules.dep": "".join(lines).encode(),
        f"usr/lib/modules/{version}/modules.builtin": "".join(f"{folder}/{name}.ko\n" for name in builtin).encode(),
    }


def linux(
    family: str = "debian",
    version: str = "12",
    *,
    early: Sequence[str] | None = ALL_DRIVERS,
    boot: Files | None = None,
    cloud_init: bool = True,
    drivers: Files | None = None,
) -> Files:
    """A Linux with merged /usr; `early` are the modules in its initramfs, which has Debian's name, None for none."""
    files: dict[str, bytes | Link | None] = {
        "etc/os-release": Link("../usr/lib/os-release"),
        "usr/lib/os-release": f'NAME="X"\nID={family}\nVERSION_ID="{version}"\n'.encode(),
        "bin": Link("usr/bin"),
        "lib": Link("usr/lib"),
        "sbin": Link("usr/sbin"),
        "usr/bin/sh": ELF,
        "usr/sbin/init": Link("../lib/systemd/systemd"),
        "usr/lib/systemd/systemd": ELF,
    }
    files |= kernel() if drivers is None else drivers
    if early is not None:
        files[f"boot/initrd.img-{KERNEL}"] = gzip.compress(initramfs(early))
    if cloud_init:
        files |= {"usr/bin/cloud-init": b"#!/usr/bin/python3\n", "etc/cloud/cloud.cfg": b"users: [default]\n"}
    return {**files, **(boot or {})}


_BOOT_START = {"viostor": 0, "vioscsi": 0, "netkvm": 3}


def windows(
    *,
    build: str = "20348",
    installation: str = "Server",
    services: Key | None = None,
    files: Sequence[str] = ("viostor", "vioscsi", "netkvm"),
    cloudbase: bool = True,
) -> Files:
    """A Windows; `services` are the keys below Services, `files` the names of the drivers that have files."""
    usual: Key = {name: {"Start": start} for name, start in _BOOT_START.items()}
    control: Key = {
        "Services": usual if services is None else services,
        "Control": {"Session Manager": {"Environment": {"PROCESSOR_ARCHITECTURE": "AMD64"}}},
    }
    # The first set is there to mislead: the second one is current.
    system = hive({"Select": {"Current": 2, "Default": 1}, "ControlSet001": {"Services": {}}, "ControlSet002": control})
    current: Key = {"ProductName": "Windows", "CurrentBuild": build, "InstallationType": installation}
    software = hive({"Microsoft": {"Windows NT": {"CurrentVersion": current}}})
    found: dict[str, bytes | Link | None] = {
        "Windows/System32/config/SYSTEM": system,
        "Windows/System32/config/SOFTWARE": software,
        **{f"Windows/System32/drivers/{name}.sys": b"MZ" for name in files},
    }
    if cloudbase:
        found["Program Files/Cloudbase Solutions/Cloudbase-Init/conf/cloudbase-init.conf"] = b"[DEFAULT]\n"
    return found
