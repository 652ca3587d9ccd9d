"""Runs the `images` command in this process, and writes down how many tasks its event loops have, again and again.

Run as `python -m tests.soak.probed FILE IMAGES ARGUMENTS…`. Nothing outside a process can count its asyncio tasks.
"""

import asyncio
import gc
import os
import runpy
import sys
import threading
import time
from itertools import count
from pathlib import Path

_LOOK_SECONDS = 0.5
_LOOKS_AT_START, _LOOKS_BETWEEN = 30, 120


def _loops() -> set[asyncio.AbstractEventLoop]:
    # Loops of uvloop are not known to the garbage collector, but tasks are.
    found = {each.get_loop() for each in gc.get_objects() if isinstance(each, asyncio.Task) and not each.done()}
    return {loop for loop in found if loop.is_running()}


def _watch(file: Path) -> None:
    loops: set[asyncio.AbstractEventLoop] = set()
    for look in count():
        time.sleep(_LOOK_SECONDS)
        # To look for loops stops the process for some ms: often at its start, when they are made, and rarely later.
        if look < _LOOKS_AT_START or look % _LOOKS_BETWEEN == 0:
            loops |= _loops()
        loops = {loop for loop in loops if loop.is_running()}
        tasks = sum(len(asyncio.all_tasks(loop)) for loop in loops)
        new = file.with_suffix(".new")
        new.write_text(str(tasks))
        os.replace(new, file)


if __name__ == "__main__":
    _, told, *command = sys.argv
    threading.Thread(target=_watch, args=(Path(told),), daemon=True).start()
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
