"""Disks with changed bytes, which the readers survive. `make fuzz` tries more of them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.readiness.damaged import disks

pytestmark = pytest.mark.needs_program("mke2fs", "mkfs.xfs", "mkfs.vfat", "mcopy", "mkntfs")

RUNS = 80


@pytest.fixture
def raw_disks(tmp_path: Path) -> Iterator[list[Path]]:
    folder = tmp_path / "disks"
    folder.mkdir()
    yield disks(folder)
    shutil.rmtree(folder)


def test_a_changed_disk_has_a_report_whatever_has_changed(raw_disks: list[Path]) -> None:
    command = [sys.executable, "-m", "tests.fuzz.disks", "--runs", str(RUNS), *map(str, raw_disks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)

    *begun, last = done.stdout.splitlines()
    assert done.returncode == 0, f"{begun[-1:]} {last} {done.stderr}"
    found = json.loads(last)
    assert sum(found.values()) == len(begun) == RUNS * len(raw_disks)
    # Half of them would prove little: what was changed is what is read.
    assert found["different"] > RUNS / 10
