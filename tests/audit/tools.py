"""Runs the tools of an audit, which are installed in an environment of their own."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PROGRAMS = ROOT / ".venv/audit/bin"
_SECONDS = 900


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A command in the root of the tree, whatever its exit code. Tools of the audit come first on its PATH."""
    path = f"{_PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )


def last_line(text: str) -> str:
    """The last line that says anything."""
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
