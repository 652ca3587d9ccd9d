"""What a Windows system on a disk has, by its registry and its files.

Sources: Microsoft's documentation of services (Start: 0 is boot, 1 system, 2 automatic, 3 on demand, 4 disabled) and of
release numbers; virtio-win for the names of the drivers.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pyregf

from app.boot_readiness.report import BootReadiness, Note, Support
from app.lifecycle import Architecture
from workers.readiness.reader.trees import EntryFile, Kind, Tree, plain_text

_CONFIG = "/Windows/System32/config"
_SYSTEM = f"{_CONFIG}/SYSTEM"
_SERVERS = {14393: "2016", 17763: "2019", 20348: "2022", 26100: "2025"}
_FIRST_11 = 22000
_ARCHITECTURES = {"AMD64": Architecture.X86_64, "ARM64": Architecture.AARCH64}
_DISK_STARTS = (0,)
_NETWORK_STARTS = (0, 1, 2, 3)
_CLOUDBASE = "/Program Files/Cloudbase Solutions/Cloudbase-Init"
_CLOUDBASE_STARTS = (2,)
# REG_DWORD, REG_DWORD_BIG_ENDIAN, REG_QWORD; REG_SZ, REG_EXPAND_SZ.
_NUMBERS = (4, 5, 11)
_TEXTS = (1, 2)


def is_windows(tree: Tree) -> bool:
    """Whether a file system is that of a Windows system."""
    return tree.kind is Kind.NTFS and tree.has(_SYSTEM)


def describe(root: Tree) -> BootReadiness:
    """The system whose root is `root`, without the firmware."""
    system, software = _hive(root, _SYSTEM), _hive(root, f"{_CONFIG}/SOFTWARE")
    notes = () if system is not None and software is not None else (Note.DAMAGED_REGISTRY,)
    control = f"ControlSet{_control_set(system):03d}"
    environment = f"{control}\\Control\\Session Manager\\Environment"
    processor = _value(system, environment, "PROCESSOR_ARCHITECTURE")
    return BootReadiness(
        os_family="windows",
        os_version=_version(software),
        architecture=_ARCHITECTURES.get(str(processor).upper()),
        virtio_blk=_driver(root, system, control, "viostor", _DISK_STARTS),
        virtio_net=_driver(root, system, control, "netkvm", _NETWORK_STARTS),
        virtio_scsi=_driver(root, system, control, "vioscsi", _DISK_STARTS),
        cloud_init=_cloud_init(root, system, control),
        notes=notes,
    )


def _control_set(system: "_Hive | None") -> int:
    for name in ("Current", "Default"):
        number = _value(system, "Select", name)
        if isinstance(number, int) and 1 <= number <= 999:
            return number
    return 1


def _version(software: "_Hive | None") -> str | None:
    """`2022` of a server, `11` of a client, or the build of an unknown one."""
    key = "Microsoft\\Windows NT\\CurrentVersion"
    build = _value(software, key, "CurrentBuild")
    if not (isinstance(build, str) and build.isascii() and build.isdigit() and len(build) <= 9):
        return None
    if str(_value(software, key, "InstallationType")) == "Client":
        return "11" if int(build) >= _FIRST_11 else "10"
    return _SERVERS.get(int(build), build)


def _driver(root: Tree, system: "_Hive | None", control: str, service: str, starts: Sequence[int]) -> Support:
    if system is None:
        return Support.UNKNOWN
    key = f"{control}\\Services\\{service}"
    start = _value(system, key, "Start")
    if start is None or not root.has(f"/Windows/System32/drivers/{service}.sys"):
        return Support.MISSING
    # Windows writes an override for drivers that it did not need when it booted last.
    override = _value(system, f"{key}\\StartOverride", "0")
    return Support.PRESENT if start in starts and override in (None, *starts) else Support.DISABLED


def _cloud_init(root: Tree, system: "_Hive | None", control: str) -> Support:
    if not root.has(_CLOUDBASE):
        return Support.MISSING
    start = _value(system, f"{control}\\Services\\cloudbase-init", "Start")
    return Support.PRESENT if start is None or start in _CLOUDBASE_STARTS else Support.DISABLED


class _Hive:
    """An open registry hive. `file` is the file object that libregf reads."""

    def __init__(self, file: EntryFile) -> None:
        self._file = file
        self.registry: Any = pyregf.file()
        self.registry.open_file_object(file)


def _hive(root: Tree, path: str) -> _Hive | None:
    """A hive; None if it is missing or damaged."""
    with suppress(Exception):
        entry = root.find(path)
        return None if entry is None else _Hive(EntryFile(entry))
    return None


def _value(hive: _Hive | None, key: str, name: str) -> int | str | None:
    """A number or text of the registry; None if there is none, or it can't be read."""
    if hive is None:
        return None
    with suppress(Exception):
        found = hive.registry.get_key_by_path("\\" + key)
        value = found and found.get_value_by_name(name)
        if value and value.type in _NUMBERS:
            return int(value.get_data_as_integer())
        if value and value.type in _TEXTS:
            return plain_text(value.get_data_as_string())
    return None
