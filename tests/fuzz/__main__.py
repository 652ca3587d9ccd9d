"""`python -m tests.fuzz`: convert made-up and damaged images for some minutes, in both stores, and read damaged disks.

`make fuzz` runs it.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import structlog
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.errors import HypothesisWarning
from rich.console import Console

from tests.fuzz.built import Built
from tests.fuzz.damage import whole_or_damaged
from tests.fuzz.places import FolderPlace, Place, store_place
from tests.fuzz.verdict import judge
from tests.servers.minio import Minio, minio_program
from tests.workers.readiness.damaged import disks

_FINDINGS = Path(tempfile.gettempdir()) / "images-fuzz"
# Images per batch; after each batch, the time left is checked.
_BATCH = 50
_console = Console(highlight=False, soft_wrap=True)
_SETTINGS = settings(
    max_examples=_BATCH,
    database=None,
    deadline=None,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def main(arguments: Sequence[str]) -> int:
    """Run until the time is over; 1 where an image came out wrong, which is kept in the folder `--keep` then."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="where to begin; the same makes the same")
    parser.add_argument("--keep", type=Path, default=_FINDINGS, help="where wrong ones are kept")
    asked = parser.parse_args(arguments)
    # What workers note of each image would hide what is found.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore", HypothesisWarning)
    end = time.monotonic() + 60 * asked.minutes
    outcomes: Counter[str] = Counter()
    found = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        (folder / "minio").mkdir()
        minio = stack.enter_context(Minio(folder / "minio", minio_program()))
        places: dict[str, Place] = {
            "folder": FolderPlace(folder / "store"),
            "store": stack.enter_context(store_place(minio, folder / "bench")),
        }
        raw_disks = disks(folder)
        number = asked.seed
        while time.monotonic() < end:
            for name, place in places.items():
                found += _batch(name, place, number, folder, asked.keep, outcomes)
            found += _read_disks(raw_disks, number, outcomes)
            number += 1
    for outcome, count in sorted(outcomes.items()):
        _console.print(f"{count:8} {outcome}")
    _console.print(f"seeds {asked.seed} to {number - 1}, {outcomes.total()} images, {found} findings")
    return 1 if found else 0


def _batch(name: str, place: Place, number: int, folder: Path, keep: Path, outcomes: Counter[str]) -> int:
    """Convert some images; returns how many findings there are: one at most, made as small as it gets."""
    last: list[tuple[Built, bytes]] = []

    @seed(number)
    @_SETTINGS
    @given(whole_or_damaged())
    def judged(case: tuple[Built, bytes]) -> None:
        last[:] = [case]
        built, file = case
        state = "whole" if file == built.file else "damaged"
        outcomes[f"{name} {built.format} {state}: {judge(place, built, file, folder)}"] += 1

    try:
        judged()
    except Exception as error:
        built, file = last[0]
        keep.mkdir(exist_ok=True)
        image = keep / f"{name}-{number}.{built.format.lower()}"
        image.write_bytes(file)
        image.with_suffix(".made").write_bytes(built.file)
        _console.print(f"seed {number}, {name}: {built.about}: {error!r}; kept as {image}")
        return 1
    return 0


def _read_disks(raw_disks: Sequence[Path], number: int, outcomes: Counter[str]) -> int:
    """Read each of the disks some times, with changed bytes; returns how many findings there are: one at most."""
    command = [sys.executable, "-m", "tests.fuzz.disks", "--runs", str(_BATCH), "--seed", str(number * _BATCH)]
    done = subprocess.run([*command, *map(str, raw_disks)], capture_output=True, text=True)
    lines = done.stdout.splitlines() or ["nothing"]
    if done.returncode:
        _console.print(f"seed {number}, disks: {lines[-1]} ended with {done.returncode}: {done.stderr[-1000:]}")
        return 1
    outcomes.update({f"disks {state}": count for state, count in json.loads(lines[-1]).items()})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
