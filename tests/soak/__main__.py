"""`python -m tests.soak`: attack a gateway while it is used, and print what users felt. `make soak` runs it."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tests.bench.figures import Figure, Report, markdown, show
from tests.bench.machine import describe
from tests.soak.attacks import ATTACKS
from tests.soak.figures import Held, Samples, growth, held, latencies
from tests.soak.target import Target, alone, scaled_out
from tests.soak.users import Users

# The parts of a run other than the storm, as shares of it: everything once, then users alone, then only what is left.
# The second is long enough that a 99th percentile of it is not one of its two or three slowest requests.
_WARM_SHARE, _QUIET_SHARE = 0.1, 0.5
# All limits of time are shorter: what was begun before has ended by then.
_SETTLE_SECONDS = 60
_SHOWN_FAILURES = 10
Outcomes = Mapping[str, Counter[str]]


def main(arguments: Sequence[str]) -> int:
    """Run the soak; 1 when a goal was missed or a user met with an error."""
    asked = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    machine = describe(asked.folder)
    console.print(machine, highlight=False)
    with tempfile.TemporaryDirectory(prefix="soak-", dir=asked.folder) as folder:
        start = scaled_out if asked.scaled_out else alone
        with start(Path(folder) / "gateway") as target:
            reports = list(_soak(target, Path(folder), asked))
    for report in reports:
        show(report, console)
    if asked.markdown:
        asked.markdown.write_text("\n".join([machine + ".\n", *map(markdown, reports)]))
    missed = [f"{report.title}: {figure.what}" for report in reports for figure in report.missed]
    console.print(f"\nfailed: {'; '.join(missed)}" if missed else "\nall goals were met")
    return 1 if missed else 0


@dataclass(frozen=True, slots=True)
class _Run:
    """What was seen in one run."""

    quiet: Mapping[str, Sequence[float]]
    storm: Mapping[str, Sequence[float]]
    failures: Sequence[str]
    start: Held
    end: Held
    outcomes: Outcomes
    missed: Sequence[str]
    events: int


def _soak(target: Target, folder: Path, asked: argparse.Namespace) -> Iterator[Report]:
    seconds, settle = asked.minutes * 60, asked.settle
    run = _run(target, folder, seconds, settle, asked.attacks)
    minutes = f"{seconds / 60:g} minutes"
    yield Report(
        "users",
        f"Requests of users during {minutes} of attacks, against those in {_QUIET_SHARE * seconds:.0f} s without any, "
        "in the same run. Attackers, users and the gateway share the cores of this machine; attackers have the lowest "
        "priority, and send some twenty requests a second.",
        [*latencies(run.quiet, run.storm), _exactly_once(run), _no_errors(run)],
    )
    yield Report(
        "what is left",
        f"What the gateway's processes hold {settle:.0f} s after the last attack, against after the warm-up.",
        list(growth(run.start, run.end)),
    )
    yield Report("attacks", "What came of each, how often; what has to come of it.", list(_withstood(run.outcomes)))


def _run(target: Target, folder: Path, seconds: float, settle: float, names: Sequence[str] | None) -> _Run:
    samples = Samples()
    users = Users(target, folder, samples)
    with users.at_work():
        # Pools fill up, modules are loaded, and caches grow: what comes later is compared with after all that.
        with _attackers(target, seconds * _WARM_SHARE, names):
            pass
        time.sleep(settle)
        _, early = samples.take()
        time.sleep(seconds * _QUIET_SHARE)
        quiet, calm = samples.take()
        start = held(target.processes)
        with _attackers(target, seconds, names) as outcomes:
            pass
        storm, stormy = samples.take()
        time.sleep(settle)
        end = held(target.processes)
    missed = users.watchers.missed()
    _, late = samples.take()
    failures = [*early, *calm, *stormy, *late]
    return _Run(quiet, storm, failures, start, end, outcomes, missed, users.watchers.events)


@contextmanager
def _attackers(target: Target, seconds: float, names: Sequence[str] | None) -> Iterator[dict[str, Counter[str]]]:
    """Attacks for `seconds`; at the end of the block, the yielded dict contains their outcomes."""
    fields = {name: getattr(target, name) for name in Target.__slots__ if name != "processes"}
    outcomes: dict[str, Counter[str]] = {}
    chosen = [attack.name for attack in ATTACKS] if names is None else names
    command = [sys.executable, "-m", "tests.soak.attacking", str(seconds), *chosen]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield outcomes
            written, _ = process.communicate(json.dumps(fields), timeout=seconds + 120)
            outcomes.update({name: Counter(said) for name, said in json.loads(written).items()})
        finally:
            process.kill()


def _exactly_once(run: _Run) -> Figure:
    said = "; ".join(run.missed) or f"{run.events} events"
    return Figure("every watcher saw every event exactly once", said, "", None, "none missed", not run.missed)


def _no_errors(run: _Run) -> Figure:
    counted = Counter(run.failures)
    shown = "; ".join(f"{times} of {text}" for text, times in counted.most_common(_SHOWN_FAILURES))
    return Figure("errors that users met with", shown or "0", "", None, "0", not run.failures)


def _withstood(outcomes: Outcomes) -> Iterator[Figure]:
    for attack in ATTACKS:
        said = outcomes.get(attack.name, Counter())
        shown = ", ".join(f"{times} of {text}" for text, times in said.most_common(4))
        tried = {text for text in said if text != "nothing to attack"}
        ok = all(map(attack.failed, tried)) if tried else None
        yield Figure(attack.name, shown or "not once", "", None, attack.expected, ok)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long attacks last [10]")
    parser.add_argument(
        "--settle", type=float, default=_SETTLE_SECONDS, help="how long to wait after attacks, in s [60]"
    )
    parser.add_argument("--attacks", nargs="*", metavar="NAME", help="only these, or none; all without")
    parser.add_argument("--scaled-out", action="store_true", help="on PostgreSQL, Redis and MinIO, not alone")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where to write [/var/tmp]")  # noqa: S108
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
