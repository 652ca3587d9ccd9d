"""Every measurement of `make bench` runs at a tiny size and says what it should. No time is asserted."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.disks import DISKS

# What each measurement has to have a line for.
LINES = {
    "receiving": ["parts of 16 MiB, four at once", "one single part"],
    "conversion": list(DISKS),
    "growth": [f"{times} times 0.004 GiB of data" for times in (1, 10, 40)],
    "memory": ["idle", "above idle while receiving", "above idle while converting"],
    "pages": ["in a second", "in a second of processor time"],
    "watchers": ["p50 from commit", "p99 from commit", "processor time per delivery", "memory per watcher"],
}
TINY = "--size 0.004 --rounds 1 --watchers 5 --events 2 --seconds 0.2".split()


@pytest.mark.needs_program("qemu-img", "qemu-io", "bwrap")
@pytest.mark.parametrize("name", LINES)
def test_a_measurement_says_what_it_found_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    command = [sys.executable, "-m", "tests.bench", name, *TINY, "--folder", str(tmp_path), "--markdown", str(table)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    written = table.read_text()
    assert [line for line in LINES[name] if f"| {line} |" not in written] == []
    assert list(tmp_path.iterdir()) == [table]


def test_every_measurement_is_tried_here() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--help"], capture_output=True, text=True, timeout=60, check=True
    )

    assert all(name in listed.stdout for name in LINES)
