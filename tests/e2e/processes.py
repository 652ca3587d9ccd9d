"""Processes of the `images` command other than `images up`, and their children."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.e2e.gateway import IMAGES, clean_environment


@contextmanager
def images_process(
    log: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`images ARGUMENTS` in the background, killed at the end if it still runs; what it prints goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [IMAGES, *arguments],
            env=clean_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def images_command(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`images ARGUMENTS`, run to its end."""
    return subprocess.run(
        [IMAGES, *arguments],
        env=clean_environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def descendants(pid: int) -> list[psutil.Process]:
    """The children of a process, and theirs, that run now."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def child_named(pid: int, name: str, *words: str) -> psutil.Process | None:
    """A descendant that runs the program `name`, with all of `words` among its arguments."""
    for child in descendants(pid):
        with suppress(psutil.NoSuchProcess):
            if child.name() == name and set(words) <= set(child.cmdline()):
                return child
    return None
