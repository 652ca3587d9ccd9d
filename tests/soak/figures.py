"""What users measured and what is left in the gateway's processes, each before and after, with its goal."""

import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import perf_counter

import psutil

from tests.bench.figures import Figure, mebibytes, quantile, seconds
from tests.soak.target import Watched, read_tasks

GOAL_RATIO = 3
# Of a single kind, the 99th percentile is made by the few requests that meet with the worst moments of an attack.
KIND_GOAL_RATIO = 10
_MIB = 1 << 20
# With fewer requests, the 99th percentile is the single slowest one, and depends on chance.
_ENOUGH = 50


class Samples:
    """How long requests took, by their kind, and what went wrong. Used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[str, list[float]] = defaultdict(list)
        self._failures: list[str] = []

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Counts what the block does as one request, unless it fails."""
        began = perf_counter()
        yield
        with self._lock:
            self._taken[kind].append(perf_counter() - began)

    def failed(self, what: str) -> None:
        """Take note of something that a legitimate user should not have met with."""
        with self._lock:
            self._failures.append(what)

    def take(self) -> tuple[Mapping[str, Sequence[float]], Sequence[str]]:
        """All up to now, by kind, and the failures; what comes is counted from nothing."""
        with self._lock:
            taken, failures = self._taken, self._failures
            self._taken, self._failures = defaultdict(list), []
        return taken, failures


@dataclass(frozen=True, slots=True)
class Held:
    """What the processes of the gateway hold: bytes of memory, descriptors, threads and tasks."""

    memory: int
    descriptors: int
    threads: int
    tasks: int


def held(processes: Sequence[Watched]) -> Held:
    """What they hold now."""
    memory = descriptors = threads = tasks = 0
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            memory += each.process.memory_info().rss
            descriptors += len(os.listdir(f"/proc/{each.process.pid}/fd"))
            threads += each.process.num_threads()
            tasks += read_tasks(each.tasks)
    return Held(memory, descriptors, threads, tasks)


def latencies(quiet: Mapping[str, Sequence[float]], storm: Mapping[str, Sequence[float]]) -> Iterator[Figure]:
    """The median and the 99th percentile of all requests and of each kind under attack, against those without."""
    yield from _compared("all requests", _requests(quiet), _requests(storm), GOAL_RATIO)
    for kind in sorted({*quiet, *storm}):
        during = storm.get(kind, [])
        yield from _compared(kind, quiet.get(kind, []), during, KIND_GOAL_RATIO)
        if not during:
            yield Figure(f"{kind}: at least one", "none", str(len(quiet[kind])), None, "≥ 1", False)


def _requests(taken: Mapping[str, Sequence[float]]) -> Sequence[float]:
    """All of them. A conversion is no request: users wait for it, but it is mostly qemu's work."""
    return [each for kind, times in taken.items() if kind != "conversion" for each in times]


def _compared(what: str, before: Sequence[float], during: Sequence[float], goal: float) -> Iterator[Figure]:
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        at_rest, attacked = quantile(before, share), quantile(during, share)
        counted = share == 0.99 and min(len(before), len(during)) >= _ENOUGH
        ratio = attacked / at_rest if before and during else None
        yield Figure(
            f"{what}, {name} of {len(during)}",
            seconds(attacked),
            f"{seconds(at_rest)} of {len(before)}",
            ratio,
            f"≤ {goal} times" if counted else "",
            ratio is not None and ratio <= goal if counted else None,
        )


def growth(start: Held, end: Held) -> Iterator[Figure]:
    """What is held at the end against the beginning. Allocators and thread pools keep some of what they once had."""
    yield _flat("descriptors", start.descriptors, end.descriptors, 16)
    # The object store alone has a pool of 16, which a burst fills up.
    yield _flat("threads", start.threads, end.threads, 16)
    yield _flat("tasks", start.tasks, end.tasks, 16)
    most = start.memory // 5 + 32 * _MIB
    ok = end.memory <= start.memory + most
    ratio = end.memory / start.memory
    yield Figure("memory", mebibytes(end.memory), mebibytes(start.memory), ratio, f"≤ + {mebibytes(most)}", ok)


def _flat(what: str, start: int, end: int, most: int) -> Figure:
    return Figure(what, str(end), str(start), end / start if start else None, f"≤ + {most}", end <= start + most)
