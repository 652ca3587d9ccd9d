"""What a Linux system on a disk has: its release, the drivers of its newest kernel, and cloud-init.

Sources: os-release(5); depmod(8) and modprobe(8) for modules.builtin and modules.dep; the names that initramfs-tools,
dracut, mkinitfs, mkinitcpio and kernel-install give an initramfs.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

from app.boot_readiness.report import BootReadiness, Note, Support
from app.lifecycle import Architecture
from app.sizes import KIB, MIB
from workers.readiness.reader import initramfs
from workers.readiness.reader.trees import Kind, Tree, pieces

RELEASES = ("/etc/os-release", "/usr/lib/os-release")
# The drivers that have to be there before the root file system is: of the bus, of the device, and of disks on it.
BOOT_DRIVERS = {"virtio_blk": ("virtio_pci", "virtio_blk"), "virtio_scsi": ("virtio_pci", "virtio_scsi", "sd_mod")}
NETWORK_DRIVERS = ("virtio_pci", "virtio_net")
_MODULES = "/lib/modules"
_PROGRAMS = ("/sbin/init", "/usr/lib/systemd/systemd", "/bin/sh", "/usr/bin/env")
# e_machine of an ELF file (elf.h): EM_X86_64, EM_AARCH64.
_MACHINES = {62: Architecture.X86_64, 183: Architecture.AARCH64}
_CLOUD_UNITS = ("cloud-init.service", "cloud-init-main.service", "cloud-init.target")
_MOST_TEXT = 64 * KIB
# modules.dep of a kernel with all modules has less than 1 MiB.
_MOST_LIST = 8 * MIB
_MOST_NEEDED = 256
# An initramfs may keep its modules in an image of another file system.
_NESTED = re.compile(r"(^|/)(squash|squashfs|erofs)-root\.img$")


class Place(IntEnum):
    """Where a kernel finds a driver, from good to bad."""

    EARLY = 0
    UNKNOWN = 1
    LATE = 2
    NOWHERE = 3


_BOOT_SUPPORT = {
    Place.EARLY: Support.PRESENT,
    Place.UNKNOWN: Support.UNKNOWN,
    Place.LATE: Support.NOT_IN_INITRAMFS,
    Place.NOWHERE: Support.MISSING,
}


def is_linux(tree: Tree) -> bool:
    """Whether a file system is the root of a Linux system."""
    return tree.kind in (Kind.EXT, Kind.XFS) and any(tree.has(path) for path in RELEASES)


def describe(root: Tree, trees: Sequence[Tree]) -> BootReadiness:
    """The system whose root is `root`; /boot may be another one of `trees`. Without the firmware."""
    family, version = _release(root)
    notes: list[Note] = []
    drivers = _drivers(root, trees, notes)
    return BootReadiness(
        os_family=family,
        os_version=version,
        architecture=_architecture(root),
        virtio_blk=_disk_support(drivers, "virtio_blk"),
        virtio_net=_network_support(drivers),
        virtio_scsi=_disk_support(drivers, "virtio_scsi"),
        cloud_init=_cloud_init(root),
        notes=tuple(notes),
    )


# ---------------------------------------------------------------- the release


def _release(root: Tree) -> tuple[str, str | None]:
    """ID and VERSION_ID; `linux` if there is no ID, as os-release(5) says."""
    text = next(filter(None, (_text(root, path) for path in RELEASES)), "")
    found = dict(re.findall(r"^(ID|VERSION_ID)=[\"']?(.*?)[\"']?\s*$", text, re.MULTILINE))
    family = found.get("ID", "").lower()
    version = found.get("VERSION_ID", "")
    return (
        family if re.fullmatch(r"[a-z0-9._-]{1,64}", family) else "linux",
        version if re.fullmatch(r"[A-Za-z0-9._+~-]{1,64}", version) else None,
    )


def _text(root: Tree, path: str) -> str:
    """The text of a small file; empty if there is none, or it can't be read."""
    with suppress(OSError):
        return (root.read(path, _MOST_TEXT) or b"").decode("utf-8", "replace")
    return ""


def _architecture(root: Tree) -> Architecture | None:
    for path in _PROGRAMS:
        with suppress(OSError):
            head = root.read(path, 20) or b""
            if head[:4] == b"\x7fELF" and len(head) == 20:
                return _MACHINES.get(int.from_bytes(head[18:20], "little" if head[5] == 1 else "big"))
    return None


# ---------------------------------------------------------------- the kernel and its drivers


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel by its version, its drivers that are built in, and its modules, each with those that it needs.

    `listed`: whether there is a list of its modules.
    """

    version: str
    builtin: frozenset[str]
    needs: dict[str, tuple[str, ...]]
    listed: bool

    def closure(self, driver: str) -> set[str]:
        """A driver with all modules that it needs."""
        found: set[str] = set()
        todo = [driver]
        while todo and len(found) < _MOST_NEEDED:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += self.needs.get(name, ())
        return found


def newest_kernel(root: Tree) -> Kernel | None:
    """The kernel of the highest version that has a list of its modules, or of those built in. Raises OSError."""
    for version in sorted(root.names(_MODULES), key=version_key, reverse=True):
        folder = f"{_MODULES}/{version}"
        builtin = root.read(f"{folder}/modules.builtin", _MOST_LIST)
        needs = root.read(f"{folder}/modules.dep", _MOST_LIST)
        if builtin is not None or needs is not None:
            names = (builtin or b"").decode("utf-8", "replace").split()
            return Kernel(
                version, frozenset(map(module_name, names)), dict(_dependencies(needs or b"")), needs is not None
            )
    return None


def version_key(version: str) -> list[tuple[int, str]]:
    """Sorts versions of kernels as numbers where they are numbers; a word such as rc1 comes before them."""
    pieces = re.split(r"[.\-+~_]", version)
    return [(int(piece), "") if re.fullmatch(r"[0-9]{1,18}", piece) else (-1, piece) for piece in pieces]


def module_name(path: str) -> str:
    """The name of a module in the kernel's spelling, from the path of its file."""
    return re.sub(r"\.ko(\.\w+)?$", "", path.rsplit("/", 1)[-1]).replace("-", "_")


def _dependencies(listed: bytes) -> Iterator[tuple[str, tuple[str, ...]]]:
    for line in listed.decode("utf-8", "replace").splitlines():
        module, _, needed = line.partition(":")
        yield module_name(module), tuple(map(module_name, needed.split()))


@dataclass(frozen=True, slots=True)
class _Drivers:
    """The drivers of a kernel; `early` are the modules in its initramfs, None if that is unknown."""

    kernel: Kernel
    early: frozenset[str] | None

    def place(self, driver: str) -> Place:
        """The worst place of a driver and of all that it needs."""
        return max(map(self._place, self.kernel.closure(driver)))

    def _place(self, name: str) -> Place:
        if name in self.kernel.builtin or (self.early is not None and name in self.early):
            return Place.EARLY
        if name in self.kernel.needs:
            return Place.UNKNOWN if self.early is None else Place.LATE
        return Place.NOWHERE if self.kernel.listed else Place.UNKNOWN


def _drivers(root: Tree, trees: Sequence[Tree], notes: list[Note]) -> _Drivers | None:
    """The drivers of the newest kernel; None if there is none, or it can't be read."""
    try:
        kernel = newest_kernel(root)
    except OSError:
        notes.append(Note.DAMAGED_FILE_SYSTEM)
        return None
    if kernel is None:
        notes.append(Note.NO_KERNEL)
        return None
    return _Drivers(kernel, _early(kernel, root, trees, notes))


def _disk_support(drivers: _Drivers | None, device: str) -> Support:
    if drivers is None:
        return Support.UNKNOWN
    return _BOOT_SUPPORT[max(map(drivers.place, BOOT_DRIVERS[device]))]


def _network_support(drivers: _Drivers | None) -> Support:
    """A driver of a network may be loaded from the root file system."""
    if drivers is None:
        return Support.UNKNOWN
    worst = max(map(drivers.place, NETWORK_DRIVERS))
    if worst is Place.UNKNOWN and not drivers.kernel.listed:
        return Support.UNKNOWN
    return Support.MISSING if worst is Place.NOWHERE else Support.PRESENT


# ---------------------------------------------------------------- its initramfs


def _early(kernel: Kernel, root: Tree, trees: Sequence[Tree], notes: list[Note]) -> frozenset[str] | None:
    """Those modules in the initramfs of a kernel that its disk drivers need; None if that is unknown."""
    wanted = {name for drivers in BOOT_DRIVERS.values() for driver in drivers for name in kernel.closure(driver)}
    wanted -= kernel.builtin
    if not wanted:
        return frozenset()
    for tree in trees:
        for path in _initramfs_paths(kernel.version, root):
            entry = tree.find(path)
            if entry is not None:
                try:
                    return _found(initramfs.names(pieces(entry, initramfs.MOST_STORED)), wanted)
                except (OSError, MemoryError, initramfs.DamagedArchive):
                    notes.append(Note.DAMAGED_INITRAMFS)
                    return None
    unified = any(tree.kind is Kind.FAT and tree.names("/EFI/Linux") for tree in trees)
    notes.append(Note.UNIFIED_KERNEL if unified else Note.NO_INITRAMFS)
    return None


def _found(names: Iterator[str], wanted: set[str]) -> frozenset[str]:
    """Those of the wanted modules that are among the names of an initramfs; stops as soon as it has them all."""
    found: set[str] = set()
    for name in names:
        if _NESTED.search(name):
            raise initramfs.DamagedArchive("the modules are in another image")
        if ".ko" in name and (module := module_name(name)) in wanted:
            found.add(module)
            if found == wanted:
                break
    return frozenset(found)


def _initramfs_paths(version: str, root: Tree) -> Iterator[str]:
    """Where the initramfs of a kernel may be, in the root file system or in that of /boot."""
    names = [f"initrd.img-{version}", f"initramfs-{version}.img", f"initrd-{version}", f"initramfs-{version}"]
    # Alpine names it after the flavour of the kernel, Arch after its package.
    names.append(f"initramfs-{version.rpartition('-')[2]}")
    if package := _text(root, f"{_MODULES}/{version}/pkgbase").strip():
        names.append(f"initramfs-{package}.img")
    # kernel-install has a folder per system.
    for path in ("/etc/kernel/entry-token", "/etc/machine-id"):
        if entry := _text(root, path).strip():
            names.append(f"{entry}/{version}/initrd")
    for folder in ("/boot", "", "/boot/efi", "/efi"):
        yield from (f"{folder}/{name}" for name in names)


# ---------------------------------------------------------------- cloud-init


def _cloud_init(root: Tree) -> Support:
    if not root.has("/usr/bin"):
        # /usr is a file system of its own.
        return Support.UNKNOWN
    if not (root.has("/usr/bin/cloud-init") and root.has("/etc/cloud/cloud.cfg")):
        return Support.MISSING
    masked = any(root.link(f"/etc/systemd/system/{unit}") == "/dev/null" for unit in _CLOUD_UNITS)
    return Support.DISABLED if masked or root.has("/etc/cloud/cloud-init.disabled") else Support.PRESENT
