"""Builds a disk with a small real Linux: Debian's cloud kernel, busybox and GRUB, without root, mounts or loop devices.

An MBR, GRUB in the gap behind it, and one ext4 partition. It boots by BIOS from virtio-blk, virtio-scsi or NVMe, whose
driver is built into this kernel, and writes to the first serial port. It reads a NoCloud seed as cloud-init does, as
far as tests need it: host name, keys, and user data that is a shell script. The power button ends it.
"""

import fcntl
import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

MiB = 1 << 20
PARTITION_AT = 1 * MiB
SECTOR = 512
PROGRAMS = ("apt-cache", "apt-get", "dpkg-deb", "mke2fs")
# mke2fs is often not on the path of a plain user.
PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"

_VIRTIO = (
    *("virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"),
    *("scsi_common", "scsi_mod", "virtio_scsi", "failover", "net_failover", "virtio_net", "virtio-rng"),
    "virtio_console",
)
_DISKS = ("crc-t10dif", "t10-pi", "crct10dif_common", "sd_mod", "cdrom", "sr_mod", "libata", "ata_piix")
_OTHERS = ("nls_base", "isofs", "button", "evdev")
_GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "linux", "normal", "configfile", "serial", "terminal", "boot")
_APPLETS = ("sh", "mount", "umount", "insmod", "cat", "findfs", "sleep", "switch_root", "poweroff", "echo")
_FOLDERS = (
    *("bin", "sbin", "usr/bin", "usr/share", "etc", "dev", "proc", "sys", "run", "tmp", "root", "boot/grub"),
    *("var/lib", "lib/modules"),
)

_INITRAMFS_INIT = """#!/bin/sh
export PATH=/bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
for module in $(cat /modules.order); do insmod /modules/$module.ko 2>/dev/null; done
tries=0
while [ -z "$root" ] && [ $tries -lt 30 ]; do
    root=$(findfs LABEL=tinyroot 2>/dev/null)
    [ -n "$root" ] || { sleep 0.1; tries=$((tries + 1)); }
done
[ -n "$root" ] || { echo "tiny: no root device found"; poweroff -f; }
mount -t ext4 "$root" /root || { echo "tiny: $root can't be mounted"; poweroff -f; }
umount /proc /sys
mount --move /dev /root/dev
exec switch_root /root /sbin/init
"""

_INIT = """#!/bin/sh
export PATH=/bin:/sbin:/usr/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs run /run
[ -e /lib/modules.late ] && for module in $(cat /lib/modules.late); do modprobe $module 2>/dev/null; done
hostname -F /etc/hostname
ip link set lo up
ip link set eth0 up 2>/dev/null && udhcpc -i eth0 -n -q -t 3 -s /usr/share/udhcpc >/dev/null 2>&1
end() { sync; umount -a -r 2>/dev/null; poweroff -f; }
for events in /dev/input/event*; do
    [ -e "$events" ] && (dd if="$events" of=/dev/null bs=24 count=1 2>/dev/null && end) &
done
[ -x /usr/bin/cloud-init ] && /usr/bin/cloud-init
. /etc/os-release
echo "tiny: $PRETTY_NAME is up after $(cut -d ' ' -f 1 /proc/uptime) s on $(hostname)"
echo "$(hostname) login: "
trap end USR2 TERM
while true; do setsid cttyhack sh -i </dev/ttyS0 >/dev/ttyS0 2>&1; sleep 1; done
"""

# This busybox's findfs does not know the labels of ISO 9660.
_CLOUD_INIT = r"""#!/bin/sh
mkdir -p /run/seed
for disk in /dev/sr0 /dev/vd[a-z] /dev/sd[a-z]; do
    [ -b "$disk" ] && mount -t iso9660 -o ro "$disk" /run/seed 2>/dev/null || continue
    [ -e /run/seed/meta-data ] && seed=$disk && break
    umount /run/seed
done
[ -n "$seed" ] || { echo "cloud-init: no seed"; exit 0; }
value() { sed -n "s/^$1: *\"*\([^\"]*\)\"*$/\1/p" /run/seed/meta-data; }
name=$(value local-hostname)
[ -n "$name" ] && echo "$name" > /etc/hostname && hostname "$name"
id=$(value instance-id)
mkdir -p /var/lib/cloud /root/.ssh
if [ "$id" != "$(cat /var/lib/cloud/instance-id 2>/dev/null)" ]; then
    sed -n 's/^ *- *"*\(ssh-[a-z0-9-]* [^"]*\)"*$/\1/p' /run/seed/user-data /run/seed/meta-data \
        > /root/.ssh/authorized_keys
    case $(head -c 2 /run/seed/user-data) in '#!') sh /run/seed/user-data ;; esac
    echo "$id" > /var/lib/cloud/instance-id; sync
fi
umount /run/seed
echo "cloud-init: done with $id"
"""

_UDHCPC = """#!/bin/sh
[ $1 = bound ] || exit 0
ip addr add $ip/$mask dev $interface
[ -n "$router" ] && ip route add default via $router
exit 0
"""

_GRUB_CFG = """serial --unit=0 --speed=115200
terminal_output serial
linux /boot/vmlinuz console=ttyS0 quiet loglevel=3 panic=-1 nokaslr mitigations=off
initrd /boot/initrd.img
boot
"""


class CannotBuild(Exception):
    """Raised when the machine lacks a program or the packages; the text says which."""


class Virtio(StrEnum):
    """Where the drivers for virtio are.

    LATE: on the root file system only, as an installer on other hardware leaves them; such a disk does not boot from
    virtio. NONE: nowhere.
    """

    EARLY = "early"
    LATE = "late"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Variant:
    """What is on the disk; `system` is ID, version and name of the operating system, `size` is in bytes."""

    virtio: Virtio = Virtio.EARLY
    cloud_init: bool = True
    system: tuple[str, str, str] = ("debian", "12", "Debian GNU/Linux")
    size: int = 64 * MiB


USUAL = Variant()


class TinyLinux:
    """Builds each variant once, into `folder`, from packages that are kept in the user's cache."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: dict[Variant, Path] = {}

    @cached_property
    def _packages(self) -> "_Packages":
        return _Packages.unpacked()

    def raw(self, variant: Variant = USUAL) -> Path:
        """A raw disk. Raises CannotBuild."""
        if variant not in self._built:
            path = self._folder / f"tiny{len(self._built)}.raw"
            _build(path, self._packages, variant)
            self._built[variant] = path
        return self._built[variant]

    def qcow2(self, variant: Variant = USUAL) -> Path:
        """The same disk as a read-only qcow2 file. Raises CannotBuild."""
        raw = self.raw(variant)
        path = raw.with_suffix(".qcow2")
        if not path.exists():
            _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path))
            path.chmod(0o444)
        return path


@dataclass(frozen=True, slots=True)
class _Packages:
    """Debian's packages, unpacked. `modules` are the kernel's, by name."""

    tree: Path
    version: str
    modules: dict[str, Path]

    @classmethod
    def unpacked(cls) -> "_Packages":
        missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
        if missing:
            raise CannotBuild(f"a tiny Linux needs {', '.join(missing)}")
        wanted = _versions()
        key = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:16]
        tree = _cache() / key
        with _locked(_cache()):
            if not tree.exists():
                _download(wanted, tree)
        folder = next(_one(tree, "usr/lib/modules", "lib/modules").iterdir())
        return cls(tree, folder.name, {path.name.split(".ko")[0]: path for path in folder.rglob("*.ko*")})

    def module(self, name: str) -> bytes:
        path = self.modules[name]
        return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()

    def place(self, name: str) -> Path:
        """Where a module is below /lib/modules/VERSION, uncompressed."""
        inside = self.modules[name].parts
        return Path(*inside[inside.index(self.version) + 1 : -1]) / f"{name}.ko"

    def depends(self, name: str) -> list[str]:
        """The names of the modules that a module needs, as `modinfo -F depends` prints them."""
        found = re.search(rb"\0depends=([^\0]*)\0", self.module(name))
        names = found[1].decode().split(",") if found and found[1] else []
        return [known for wanted in names if (known := self.known(wanted)) is not None]

    def known(self, name: str) -> str | None:
        """The name of a module in the spelling of its file; None if the kernel has it built in, or not at all."""
        spellings = (name, name.replace("_", "-"), name.replace("-", "_"))
        return next((spelling for spelling in spellings if spelling in self.modules), None)

    def ordered(self, names: Sequence[str]) -> list[str]:
        """The modules with these names, each after those that it needs."""
        order: list[str] = []

        def add(name: str | None) -> None:
            if name is not None and name not in order:
                for other in self.depends(name):
                    add(other)
                order.append(name)

        for name in names:
            add(self.known(name))
        return order


def _build(out: Path, packages: _Packages, variant: Variant) -> None:
    work = out.with_suffix(".work")
    try:
        _lay_root(work / "root", packages, variant)
        _make_disk(out, work, packages.tree, variant.size)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _lay_root(root: Path, packages: _Packages, variant: Variant) -> None:
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    busybox = _one(packages.tree, "bin/busybox", "usr/bin/busybox").read_bytes()
    _write(root / "bin/busybox", busybox, 0o755)
    for applet in _run(str(root / "bin/busybox"), "--list").split():
        if not (root / "bin" / applet).exists():
            (root / "bin" / applet).symlink_to("busybox")
    _write(root / "sbin/init", _INIT, 0o755)
    _write(root / "usr/share/udhcpc", _UDHCPC, 0o755)
    identity, number, name = variant.system
    release = f'ID={identity}\nVERSION_ID="{number}"\nNAME="{name}"\nPRETTY_NAME="{name} {number}"\n'
    _write(root / "etc/os-release", release)
    _write(root / "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
    _write(root / "etc/hostname", "tiny\n")
    # Without it, a statically linked busybox crashes when it resolves a name.
    _write(root / "etc/nsswitch.conf", "hosts: files\n")
    if variant.cloud_init:
        _write(root / "usr/bin/cloud-init", _CLOUD_INIT, 0o755)
        _write(root / "etc/cloud/cloud.cfg", "datasource_list: [ NoCloud, None ]\n")
    _lay_kernel(root, packages, variant, busybox)


def _lay_kernel(root: Path, packages: _Packages, variant: Variant, busybox: bytes) -> None:
    late = packages.ordered(_VIRTIO) if variant.virtio is not Virtio.NONE else []
    modules = root / "lib/modules" / packages.version
    for name in {*packages.ordered([*_DISKS, *_OTHERS]), *late}:
        _write(modules / packages.place(name), packages.module(name))
    builtin = next(packages.tree.rglob("modules.builtin"))
    _write(modules / "modules.builtin", builtin.read_bytes())
    _write(modules / "modules.dep", _modules_dep(packages, modules))
    early = packages.ordered([*(_VIRTIO if variant.virtio is Virtio.EARLY else ()), *_DISKS, *_OTHERS])
    packed = gzip.compress(_initramfs(busybox, early, packages), 6, mtime=0)
    for kind, content in (("initrd.img", packed), ("vmlinuz", next(packages.tree.rglob("vmlinuz-*")).read_bytes())):
        _write(root / "boot" / kind, content)
        (root / "boot" / f"{kind}-{packages.version}").symlink_to(kind)
    _write(root / "boot/grub/grub.cfg", _GRUB_CFG)
    if variant.virtio is Virtio.LATE:
        _write(root / "lib/modules.late", "\n".join(late))


def _modules_dep(packages: _Packages, modules: Path) -> str:
    """What depmod writes: each module, and those that it needs."""
    places = {path.stem: str(path.relative_to(modules)) for path in modules.rglob("*.ko")}
    lines = (
        f"{place}: {' '.join(places[other] for other in packages.depends(name) if other in places)}".rstrip()
        for name, place in sorted(places.items())
    )
    return "".join(f"{line}\n" for line in lines)


def _initramfs(busybox: bytes, order: Sequence[str], packages: _Packages) -> bytes:
    entries = [(folder, 0o040755, b"") for folder in ("bin", "dev", "proc", "sys", "root", "modules")]
    entries += [("dev/console", 0o020600, b""), ("bin/busybox", 0o100755, busybox)]
    entries += [(f"bin/{applet}", 0o120777, b"busybox") for applet in _APPLETS]
    entries += [(f"modules/{name}.ko", 0o100644, packages.module(name)) for name in order]
    entries += [("modules.order", 0o100644, "\n".join(order).encode()), ("init", 0o100755, _INITRAMFS_INIT.encode())]
    return cpio(entries)


def cpio(entries: Sequence[tuple[str, int, bytes]]) -> bytes:
    """An archive in the format newc (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel)."""
    out = io.BytesIO()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        path = name.encode() + b"\0"
        fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0]
        out.write(b"070701" + b"".join(b"%08X" % one for one in fields) + path)
        out.write(b"\0" * (-out.tell() % 4) + data)
        out.write(b"\0" * (-out.tell() % 4))
    return out.getvalue()


def _make_disk(out: Path, work: Path, tree: Path, size: int) -> None:
    core, grub = work / "core.img", tree / "usr/lib/grub/i386-pc"
    mkimage = [str(tree / "usr/bin/grub-mkimage"), "-O", "i386-pc", "-d", str(grub), "-o", str(core)]
    _run(*mkimage, "-p", "(hd0,msdos1)/boot/grub", *_GRUB_MODULES)
    with out.open("wb") as file:
        file.truncate(size)
    # `offset` keeps what is in front of the file system; the size is in KiB.
    options = f"offset={PARTITION_AT},root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1"
    kilobytes = f"{(size - PARTITION_AT) >> 10}k"
    _run("mke2fs", "-q", "-t", "ext4", "-L", "tinyroot", "-d", str(work / "root"), "-E", options, str(out), kilobytes)
    image = core.read_bytes()
    assert len(image) <= PARTITION_AT - SECTOR, "GRUB does not fit into the gap"
    with out.open("r+b") as file:
        file.write(_boot_sector((grub / "boot.img").read_bytes(), size) + image)


def _boot_sector(boot: bytes, size: int) -> bytes:
    """GRUB's boot sector with a table of one partition.

    It names sector 1 as the place of GRUB's core, and the core names the sectors after it: no installer is needed.
    """
    sectors = (size - PARTITION_AT) // SECTOR
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", PARTITION_AT // SECTOR, sectors)
    # Two NOPs, as grub-setup writes them for hard disks, in place of a jump over a correction of the drive's number.
    return boot[:0x66] + b"\x90\x90" + boot[0x68:446] + entry + bytes(48) + b"\x55\xaa"


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "image-gateway" / "tiny-linux"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """No other test run downloads meanwhile."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _versions() -> list[str]:
    """The packages to download, as NAME=VERSION."""
    kernel = re.search(r"Depends: (linux-image-\S+)", _run("apt-cache", "depends", "linux-image-cloud-amd64"))
    if kernel is None:
        raise CannotBuild("a tiny Linux needs the lists of Debian's packages: apt-get update")
    names = [kernel[1], "busybox-static", "grub-pc-bin", "grub-common"]
    policy = _run("apt-cache", "policy", *names)
    candidates = re.findall(r"^(\S+):\n(?:  .*\n)*?  Candidate: (\S+)$", policy, re.MULTILINE)
    if {name for name, _ in candidates} != set(names):
        raise CannotBuild(f"a tiny Linux needs the packages {' '.join(names)}")
    return sorted(f"{name}={version}" for name, version in candidates)


def _download(wanted: Sequence[str], tree: Path) -> None:
    new = tree.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    (new / "packages").mkdir(parents=True)
    try:
        # As root, apt would download as a user who may not write here.
        _run("apt-get", "download", "-o", "APT::Sandbox::User=root", *wanted, cwd=new / "packages")
    except subprocess.SubprocessError as error:
        raise CannotBuild(f"a tiny Linux needs {' '.join(wanted)}, which can't be downloaded: {error}") from error
    for package in (new / "packages").glob("*.deb"):
        _run("dpkg-deb", "-x", str(package), str(new))
    shutil.rmtree(new / "packages")
    new.rename(tree)


def _one(tree: Path, *paths: str) -> Path:
    return next(tree / path for path in paths if (tree / path).exists())


def _write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


def _run(*command: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "PATH": PATH, "LC_ALL": "C"}
    done = subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True, timeout=300)
    return done.stdout
