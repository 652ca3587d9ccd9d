"""How tests are started, and what the machine does not allow, does not make them fail."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.order import LONGEST_FIRST, ROOT


def run_tests(*chosen: str, shell: Sequence[str] = (), **env: str) -> subprocess.CompletedProcess[str]:
    """Run tests in a process of their own, by way of a command; without CI, unless it is given."""
    tests = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *chosen]
    inherited = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        [*shell, *tests], cwd=ROOT, env={**inherited, **env}, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_a_test_starts_is_ended_by_a_signal(number: signal.Signals) -> None:
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        sleeper.send_signal(number)
        try:
            assert sleeper.wait(30) == -number
        finally:
            sleeper.kill()


def test_the_same_is_true_in_the_background_of_a_shell_that_ignores_signals() -> None:
    background = ["sh", "-c", "trap '' INT TERM HUP; \"$@\" & wait $!", "sh"]

    done = run_tests(__file__, "-k", "what_a_test_starts", shell=background)

    assert done.returncode == 0, done.stdout


@pytest.mark.needs_program("qemu-img")
def test_what_needs_bubblewrap_says_why_it_is_left_out_where_that_can_not_work(tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    chosen = ("tests/workers/test_confinement.py", "-k", "no_network")

    left_out = run_tests(*chosen, PATH=path)
    failed = run_tests(*chosen, PATH=path, CI="true")

    assert (left_out.returncode, failed.returncode) == (0, 1)
    assert "What confines qemu), but: bwrap: No permissions" in left_out.stdout
    assert "What confines qemu), but: bwrap: No permissions" in failed.stdout


def test_every_file_that_is_to_be_run_early_is_there() -> None:
    assert [name for name in LONGEST_FIRST if not (ROOT / name).is_file()] == []
    assert len(set(LONGEST_FIRST)) == len(LONGEST_FIRST)
