"""Every measurement of `make bench` runs at a tiny size and says what it should. No time is asserted."""

import subprocess
import sys

import pytest

from tests.bench.__main__ import MEASUREMENTS
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


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The table of each measurement, by its name, from one run of them all that left nothing else behind."""
    folder = tmp_path_factory.mktemp("bench")
    file = folder / "tables.md"
    command = [sys.executable, "-m", "tests.bench", *LINES, *TINY, "--folder", str(folder), "--markdown", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == [file]
    _, *written = file.read_text().split("### ")
    return {table.partition("\n")[0]: table for table in written}


@pytest.mark.needs_program("qemu-img", "qemu-io", "bwrap")
@pytest.mark.parametrize("name", LINES)
def test_a_measurement_says_what_it_found(name: str, tables: dict[str, str]) -> None:
    assert [line for line in LINES[name] if f"| {line} |" not in tables[name]] == []


def test_every_measurement_is_tried_here() -> None:
    assert list(LINES) == list(MEASUREMENTS)
