"""Every measurement of `make bench` runs at a tiny size and says what it should. No time is asserted."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.__main__ import MEASUREMENTS, main
from tests.bench.disks import DISKS

# What each measurement has to have a line for.
LINES = {
    "receiving": ["parts of 16 MiB, four at once", "one single part"],
    "conversion": list(DISKS),
    "growth": [f"{times} times 0.004 GiB of data" for times in (1, 10, 40)],
    "memory": ["idle", "above idle while receiving", "above idle while converting"],
    "pages": ["in a second", "in a second of processor time"],
    "watchers": ["p50 from commit", "p99 from commit", "processor time per delivery", "memory per watcher"],
    "stored_conversion": [*DISKS, "written to disks by the worker", "memory of the worker"],
    "compression": ["dense raw", "streamOptimized VMDK, stored"],
    "sharing": ["dense raw", "streamOptimized VMDK, processor time"],
    "catalogue": ["pages in a second", "SQLite, all", "PostgreSQL, name with ubuntu (1 of 4)"],
    "crowd": ["p99 from commit", "memory per watcher", "memory of API process 2"],
    "servers": ["launch: bytes copied", "launch: until it runs", "point: its moment", "point: pause of the guest"],
    "captures": ["idle server, over its base", "idle server, without a base", "what a guest writes meanwhile"],
    "promotion": ["snapshot of 0.004 GiB", "snapshot of 0.2 GiB", "bytes written to the store"],
}
TINY = "--size 0.004 --rounds 1 --watchers 5 --crowd 6 --events 2 --seconds 0.02 --images 200".split()


@pytest.fixture
def open_files() -> Iterator[None]:
    """Undoes what `crowd` does to the limit of this process, which the next tests inherit."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("postgresql", "redis", "minio", "open_files")
@pytest.mark.needs_program("qemu-img", "qemu-io", "qemu-nbd", "qemu-system-x86_64", "bwrap")
@pytest.mark.parametrize("name", LINES)
def test_a_measurement_says_what_it_found_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    file = tmp_path / "table.md"
    assert main([name, *TINY, "--folder", str(tmp_path), "--markdown", str(file)]) == 0
    assert list(tmp_path.iterdir()) == [file]
    table = file.read_text()
    assert [line for line in LINES[name] if f"| {line} |" not in table] == []


def test_the_command_says_what_it_can_measure() -> None:
    command = [sys.executable, "-m", "tests.bench", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert ", ".join(LINES) in " ".join(done.stdout.split())


def test_every_measurement_is_tried_here() -> None:
    assert list(LINES) == list(MEASUREMENTS)
