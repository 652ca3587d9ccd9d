"""Runs the `images` command in this process, and writes down how many tasks its event loops have, again and again.

Run as `python -m tests.soak.probed FILE IMAGES ARGUMENTS…`. Nothing outside a process can count its asyncio tasks.
"""

import asyncio
import os
import runpy
import sys
import threading
import time
from collections.abc import Coroutine
from contextvars import Context
from pathlib import Path
from typing import Any

_LOOK_SECONDS = 0.5
_loops: set[asyncio.AbstractEventLoop] = set()
_run = asyncio.Runner.run


def _noted(runner: asyncio.Runner, coroutine: Coroutine[Any, Any, Any], *, context: Context | None = None) -> Any:
    """What asyncio.run, anyio.run and uvloop.run come down to, with the loop taken note of."""
    loop = runner.get_loop()
    _loops.add(loop)
    try:
        return _run(runner, coroutine, context=context)
    finally:
        _loops.discard(loop)


def _watch(file: Path) -> None:
    while True:
        time.sleep(_LOOK_SECONDS)
        tasks = sum(len(asyncio.all_tasks(loop)) for loop in tuple(_loops))
        new = file.with_suffix(".new")
        new.write_text(str(tasks))
        os.replace(new, file)


if __name__ == "__main__":
    _, counted, *command = sys.argv
    asyncio.Runner.run = _noted  # type: ignore[method-assign, assignment]
    threading.Thread(target=_watch, args=(Path(counted),), daemon=True).start()
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
