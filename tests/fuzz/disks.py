"""`python -m tests.fuzz.disks DISK…`: survey raw disks, each time with some of the bytes changed that a survey reads.

The readers are C, and a damaged disk may end this process: it prints the number of each run before it begins.
"""

import argparse
import json
import os
import random
import resource
import signal
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from workers.readiness.reader.survey import survey
from workers.readiness.validation import validated

# As much time as the reader has for all it does, in seconds.
_CPU_SECONDS = 20
_MEMORY = 2 << 30
_BLOCK = 4096
_MOST_CHANGES = 256


class ChangedDisk:
    """A disk in a file, with other bytes at some offsets. `asked` are the blocks that were read and are not empty."""

    def __init__(self, fd: int, changes: Mapping[int, int]) -> None:
        self.size = os.fstat(fd).st_size
        self.asked: set[int] = set()
        self._fd = fd
        self._changes = changes
        self._places = sorted(changes)

    def read_at(self, offset: int, length: int) -> bytes:
        """As the readers want it."""
        length = min(length, self.size - offset)
        data = bytearray(os.pread(self._fd, length, offset) if length > 0 else b"")
        for place in range(0, length, _BLOCK):
            if any(data[place : place + _BLOCK]):
                self.asked.add((offset + place) // _BLOCK)
        for place in self._places[bisect_left(self._places, offset) :]:
            if place >= offset + length:
                break
            data[place - offset] = self._changes[place]
        return bytes(data)


def main(arguments: Sequence[str]) -> int:
    """Survey the disks in turns, with the seeds from `--seed` on; print how many reports were like the first one."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.disks", description=__doc__)
    parser.add_argument("disks", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=100)
    asked = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    found: Counter[str] = Counter()
    for disk in asked.disks:
        with disk.open("rb") as file:
            whole = ChangedDisk(file.fileno(), {})
            before = survey(whole)
            blocks = sorted(whole.asked)
            for number in range(asked.seed, asked.seed + asked.runs):
                sys.stdout.write(f"{disk} {number}\n")
                sys.stdout.flush()
                signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS)
                report = survey(ChangedDisk(file.fileno(), _changes(blocks, number)))
                assert validated(json.dumps(report.to_json()).encode()) == report
                found["same" if report == before else "different"] += 1
    sys.stdout.write(f"{json.dumps(found)}\n")
    return 0


def _changes(blocks: Sequence[int], number: int) -> dict[int, int]:
    """1 to 256 changed bytes, half of the time all in one block, where structures are whole otherwise."""
    numbers = random.Random(number)
    chosen = blocks if numbers.random() < 0.5 else [numbers.choice(blocks)]
    count = 2 ** numbers.randrange((_MOST_CHANGES + 1).bit_length())
    extremes = (0, 1, 0x7F, 0x80, 0xFF)
    return {
        numbers.choice(chosen) * _BLOCK + numbers.randrange(_BLOCK): (
            numbers.choice(extremes) if numbers.random() < 0.5 else numbers.randrange(256)
        )
        for _ in range(count)
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
