"""The machine that was measured on, in a few words."""

import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil


def describe(folder: Path) -> str:
    """Cores, memory, the disk below `folder`, and the versions that matter."""
    memory = psutil.virtual_memory().total / (1 << 30)
    load = os.getloadavg()[0]
    parts = [
        f"{os.cpu_count()} cores, {memory:.0f} GiB of memory",
        _disk(folder),
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
        _qemu(),
        f"load {load:.1f} at the start",
    ]
    return "; ".join(parts)


def _disk(folder: Path) -> str:
    resolved = folder.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if resolved.is_relative_to(part.mountpoint)]
    mount = max(mounts, key=lambda part: len(part.mountpoint), default=None)
    if mount is None:
        return "an unknown disk"
    return f"{mount.fstype} on {mount.device} ({_kind(os.stat(resolved).st_dev)})"


def _kind(device: int) -> str:
    for path in _queues(device):
        if path.exists():
            return "a rotating disk" if path.read_text().strip() == "1" else "no rotating disk"
    return "of unknown kind"


def _queues(device: int) -> Iterator[Path]:
    """Where the kernel describes a block device, or the disk that contains a partition (sysfs)."""
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    yield block / "queue/rotational"
    yield block.parent / "queue/rotational"


def _qemu() -> str:
    done = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.splitlines()[0]
