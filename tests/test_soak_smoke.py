"""`make soak` runs to its end at a tiny size and says what it should. No time and no outcome is asserted."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.attacks import ATTACKS
from tests.soak.figures import Held, growth, latencies

# Attacks that end soon, of each kind.
CHOSEN = ["many_fields", "labels", "tokens_that_are_not_good", "parts_of_other_lengths"]
EXACTLY_ONCE = "every watcher saw every event exactly once"
LINES = ["all requests, p99", "page, p99", "rename, p99", EXACTLY_ONCE, "tasks", "memory", *CHOSEN]


@pytest.mark.needs_program("qemu-img", "bwrap")
def test_a_soak_of_seconds_says_what_users_felt_and_what_is_left(tmp_path: Path) -> None:
    file = tmp_path / "tables.md"
    command = [sys.executable, "-m", "tests.soak", "--minutes", "0.05", "--settle", "1", "--attacks", *CHOSEN]

    done = subprocess.run(
        [*command, "--folder", str(tmp_path), "--markdown", str(file)], capture_output=True, text=True, timeout=280
    )

    assert file.exists(), done.stderr
    tables = file.read_text()
    assert [line for line in LINES if f"| {line}" not in tables] == []
    assert ("all goals were met" in done.stdout) == (done.returncode == 0)
    assert list(tmp_path.iterdir()) == [file]


def test_a_p99_of_all_requests_of_more_than_three_times_the_quiet_one_misses_the_goal() -> None:
    quiet = {"page": [0.010] * 100}

    within = list(latencies(quiet, {"page": [0.029] * 100}))
    beyond = list(latencies(quiet, {"page": [0.010] * 98 + [0.031] * 2}))

    assert [figure.ok for figure in within] == [None, True] * 2
    assert [figure.ok for figure in beyond] == [None, False, None, True]


def test_a_p99_of_one_kind_of_more_than_ten_times_the_quiet_one_misses_the_goal() -> None:
    quiet = {"page": [0.010] * 1000, "rename": [0.010] * 100}

    beyond = list(latencies(quiet, {"page": [0.010] * 1000, "rename": [0.010] * 98 + [0.101] * 2}))

    assert [figure.ok for figure in beyond] == [None, True, None, True, None, False]


def test_a_conversion_counts_as_a_kind_and_not_as_a_request() -> None:
    times = {"page": [0.010] * 100, "conversion": [1.0] * 100}

    assert [figure.measured for figure in latencies(times, times)] == ["10 ms"] * 2 + ["1.00 s"] * 2 + ["10 ms"] * 2


def test_a_kind_of_request_that_never_succeeds_under_attack_misses_the_goal() -> None:
    assert [figure.ok for figure in latencies({"page": [0.010] * 100}, {})][-1] is False


def test_what_grows_misses_the_goal() -> None:
    start = Held(memory=200 << 20, descriptors=40, threads=10, tasks=30)
    end = Held(memory=280 << 20, descriptors=57, threads=27, tasks=47)

    assert [figure.ok for figure in growth(start, start)] == [True] * 4
    assert [figure.ok for figure in growth(start, end)] == [False] * 4


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_that_is_answered_with_data_has_not_failed(attack: object) -> None:
    withstood = [each for each in ATTACKS if each is attack and each.failed("200")]

    # Introspection of the schema by itself is offered to everyone.
    assert [each.name for each in withstood] in ([], ["introspection_flood"])
