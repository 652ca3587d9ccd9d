"""What others wrote and tests run: packages from npm in tests/outside, and a generator of Python clients."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OUTSIDE = ROOT / "tests" / "outside"
PACKAGES = OUTSIDE / "node_modules"
# In an environment of its own, since it needs an older graphql-core than the gateway: .ci/codegen.in.
PYTHON = ROOT / ".venv" / "codegen" / "bin" / "python"
_SECONDS = 120


def require(path: Path) -> None:
    """Skips the test where this has not been installed; fails it in CI."""
    if path.exists():
        return
    reason = f"needs {path.relative_to(ROOT)}: .ci/setup dev"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def run_script(name: str, *arguments: str | Path, folder: Path = OUTSIDE) -> str:
    """What a script of tests/outside prints that is run in this folder, as `run` does."""
    require(PACKAGES)
    return run("node", OUTSIDE / name, *arguments, folder=folder)


def run(*command: str | Path, folder: Path = OUTSIDE) -> str:
    """What a program prints that is run in this folder. Fails with what it complains of."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
