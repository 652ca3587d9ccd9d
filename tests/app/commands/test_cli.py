"""`images` itself, before any of its commands."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.e2e.gateway import IMAGES, clean_environment

PRINTED = f"images {version('image-gateway')}\n"


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    environment = clean_environment() | {"COLUMNS": "120", "TERM": "dumb"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


@pytest.mark.parametrize("command", ["", "upload"])
def test_version_prints_that_of_the_installed_package(command: str) -> None:
    done = run(IMAGES, "--version", *command.split())

    assert (done.returncode, done.stdout, done.stderr) == (0, PRINTED, "")


def test_help_names_the_option_and_still_says_what_the_command_is() -> None:
    done = run(IMAGES, "--help")

    assert done.returncode == 0
    assert "--version" in done.stdout
    assert "An image catalogue for a cloud" in done.stdout


def test_version_loads_neither_client_nor_server() -> None:
    code = """import atexit, json, sys
sys.argv = ["images", "--version"]
atexit.register(lambda: print(json.dumps(sorted(sys.modules))))
import app.cli
app.cli.main()"""

    printed = run(sys.executable, "-c", code).stdout

    assert printed.startswith(PRINTED)
    loaded = json.loads(printed.removeprefix(PRINTED))
    assert [name for name in loaded if name.split(".")[0] in ("httpx", "sqlalchemy", "strawberry", "workers")] == []
