"""`images`, as `python -m tests.e2e.stopping FILE …`: it stops at the step of a capture whose name is in FILE.

All of its threads stop, as by SIGSTOP. The test can kill it there, or let it continue.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import psutil

from app import cli
from app.catalog.snapshots import capturing
from app.lifecycle import ImagePhase
from tests.e2e.client import eventually
from workers.hypervisor.qemu import QemuHypervisor
from workers.jobs.progress import ProgressReporter

Due = Callable[..., bool]


def _always(*_arguments: object) -> bool:
    return True


def _halfway(_reporter: object, phase: ImagePhase, done: int, total: int | None) -> bool:
    return phase is ImagePhase.CAPTURING and 0 < done < (total or 0)


# In their order: where each step begins, and with which arguments.
_STEPS: dict[str, tuple[Any, str, Due]] = {
    "take the point": (QemuHypervisor, "point", _always),
    "record the point": (capturing, "taken", _always),
    "store the rest": (ProgressReporter, "report", _halfway),
    "commit": (capturing, "succeed", _always),
    "release the point": (capturing, "has_other", _always),
}
STEPS = tuple(_STEPS)


def program(file: Path) -> Sequence[str]:
    """What to run in place of `images`."""
    return (sys.executable, "-m", "tests.e2e.stopping", str(file))


def wait_until_stopped(pid: int, file: Path) -> None:
    """Wait until a process has stopped at the step that is in the file."""
    eventually(lambda: not file.exists() and psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def _stopping(file: Path, step: str, due: Due, begin: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(begin)
    def call(*arguments: Any, **options: Any) -> Any:
        if file.exists() and file.read_text() == step and due(*arguments):
            file.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        return begin(*arguments, **options)

    return call


def _main() -> None:
    file = Path(sys.argv.pop(1))
    for step, (owner, name, due) in _STEPS.items():
        setattr(owner, name, _stopping(file, step, due, getattr(owner, name)))
    cli.main()


if __name__ == "__main__":
    _main()
