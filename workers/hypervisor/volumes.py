"""Creates and deletes the disks of volumes."""

import errno
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from workers.hypervisor.files import HostFiles, VolumeFiles, read_json, write_json
from workers.hypervisor.port import HypervisorError, HypervisorUnavailable, VolumeMissing, VolumeSpec
from workers.limits import Limits
from workers.qemu.confinement import environment, remove_tree
from workers.qemu.programs import resolved

_SECONDS = 60
# Magic, and the virtual size after six more fields: docs/interop/qcow2.txt of QEMU, "Header".
_QCOW2 = struct.Struct(">4s20xQ")


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume that exists: its size, and its base with the size of that; sizes are bytes."""

    size: int
    base: Path | None
    base_size: int


def describe(files: VolumeFiles) -> Volume:
    """The volume with these files. Raises VolumeMissing."""
    found = read_json(files.description)
    if found is None:
        raise VolumeMissing(f"there is no volume {files.id} on this host")
    base = found["base"]
    return Volume(found["size"], None if base is None else Path(base), found["base_size"])


def create(host: HostFiles, files: VolumeFiles, spec: VolumeSpec, limits: Limits) -> None:
    """Create a volume, unless it exists. Raises HypervisorError, HypervisorUnavailable, OSError."""
    if files.description.exists():
        return
    # The description is written last, so what is here without one was left by a process that was killed.
    remove_tree(files.folder)
    base = None if spec.base is None else spec.base.absolute()
    base_size = 0 if base is None else _virtual_size(base)
    files.folder.mkdir()
    host.make_folder(files.disk_folder, writable=False)
    _create_disk(files.disk, spec.size, base, limits)
    host.give(files.disk)
    described = {"size": spec.size, "base": None if base is None else str(base), "base_size": base_size}
    write_json(files.description, described)


def delete(files: VolumeFiles) -> None:
    """Delete a volume with everything of it; does nothing if there is none."""
    # First what makes it a volume: what is left of an interrupted deletion is not one.
    files.description.unlink(missing_ok=True)
    remove_tree(files.folder)


def _create_disk(disk: Path, size: int, base: Path | None, limits: Limits) -> None:
    command = [resolved(limits.qemu_img), "create", "-q", "-f", "qcow2"]
    if base is not None:
        # `-u`: the base is not opened. Its name is for people: servers are given the whole chain.
        command += ["-u", "-F", "qcow2", "-b", str(base)]
    try:
        done = subprocess.run(  # noqa: S603  # nosec B603 (an argument list of our own)
            [*command, os.fspath(disk), str(size)], env=environment(), capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.SubprocessError as error:
        raise HypervisorUnavailable(f"{limits.qemu_img} did not create a disk: {error}") from error
    except FileNotFoundError as error:
        raise HypervisorUnavailable(f"{limits.qemu_img} not found; install qemu-utils") from error
    if done.returncode:
        said = f"{limits.qemu_img} can't create a disk: {done.stderr.strip()}"
        full = next((number for number in (errno.ENOSPC, errno.EDQUOT) if os.strerror(number) in said), None)
        raise HypervisorError(said) if full is None else OSError(full, said)


def _virtual_size(base: Path) -> int:
    with base.open("rb") as file:
        head = file.read(_QCOW2.size)
    if len(head) < _QCOW2.size or not head.startswith(b"QFI\xfb"):
        raise HypervisorError(f"{base.name} is not a qcow2 file")
    return int(_QCOW2.unpack(head)[1])
