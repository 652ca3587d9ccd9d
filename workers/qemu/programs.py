"""Finds the folders and libraries that a program needs where only the system's own folders are visible."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_LIBRARY = re.compile(r"^\s*(?:\S+ => )?(/.*) \(0x[0-9a-f]+\)$", re.MULTILINE)
_LDD_SECONDS = 10
_MOST_LINKS = 40


def resolved(program: str) -> str:
    """The path of a program named as on a command line; the name itself if there is no such program."""
    path = shutil.which(program)
    return os.path.abspath(path) if path else program


def within_system(path: str) -> bool:
    """Whether a file or folder is in the system's own folders."""
    return _within(path, SYSTEM)


def outside_system(programs: Sequence[str]) -> tuple[str, ...]:
    """Folders and files outside the system's own that these programs need, parents before their content."""
    return _outside_system(tuple(resolved(program) for program in programs))


@cache
def _outside_system(paths: tuple[str, ...]) -> tuple[str, ...]:
    needed = {place for path in paths if os.path.isabs(path) for place in _needs(path)}
    shown: list[str] = []
    for place in sorted(needed):
        if not _within(place, (*SYSTEM, *shown)):
            shown.append(place)
    return tuple(shown)


def _needs(program: str) -> Iterator[str]:
    """The folder of a program, the folders of the links to it, and its libraries."""
    for path in _links(program):
        folder = os.path.dirname(path)
        # The root folder would show all of the machine's files.
        yield path if folder == "/" else folder
    yield from _libraries(os.path.realpath(program))


def _links(path: str) -> Iterator[str]:
    for _ in range(_MOST_LINKS):
        yield path
        if not os.path.islink(path):
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    yield os.path.realpath(path)


def _libraries(program: str) -> Sequence[str]:
    """The shared libraries of a program and its loader; none for a script or a statically linked program."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(  # noqa: S603  (a program of the operator's, which is about to be run)
            [resolved("ldd"), program],
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=_LDD_SECONDS,
            check=True,
        )
        return _LIBRARY.findall(done.stdout)
    return ()


def _within(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)
