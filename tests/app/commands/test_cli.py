"""`images` itself, before any of its commands."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

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


@pytest.mark.parametrize(
    ("name", "warning"),
    [("create-organization", ""), ("found", "`images found` is deprecated; use `images create-organization`.\n")],
)
def test_an_organization_is_created_by_the_new_and_the_old_name(name: str, warning: str, tmp_path: Path) -> None:
    command = (IMAGES, name, "--organization", "acme", "--project", "alpha", "--data", str(tmp_path / "data"))

    created, repeated = run(*command), run(*command)

    assert re.fullmatch(r"prj_\w+  alpha\n", created.stdout)
    assert (created.returncode, created.stderr) == (0, warning)
    assert (repeated.returncode, repeated.stdout, repeated.stderr) == (0, created.stdout, warning)


def test_help_lists_only_the_new_name_of_a_command() -> None:
    shown = run(IMAGES, "--help").stdout

    assert re.search(r"\bcreate-organization\b", shown)
    assert not re.search(r"\bfound\b", shown)


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


# What the API needs alone, and what converts images; an operator would wait for it at every command.
HEAVY = ("strawberry", "starlette", "uvicorn", "app.graphql", "workers")
# Clients of PostgreSQL, Redis, S3 and OIDC issuers, and what migrates tables that are not up to date.
OF_SERVICES = ("asyncpg", "redis", "minio", "urllib3", "httpx", "alembic")


@pytest.mark.parametrize("command", ["migrate", "found", "owner", "token", "signin", "hosts", "forget-host"])
def test_what_changes_the_database_alone_loads_neither_api_nor_workers(command: str) -> None:
    assert_loads_without(command, (*HEAVY, *OF_SERVICES))


@pytest.mark.parametrize("command", ["up", "serve", "work", "host"])
def test_a_process_loads_no_client_of_a_service_before_it_knows_that_there_is_one(command: str) -> None:
    assert_loads_without(command, OF_SERVICES)


def assert_loads_without(command: str, names: tuple[str, ...]) -> None:
    code = f"""import atexit, json, sys
sys.argv = ["images", "{command}", "--help"]
atexit.register(lambda: print(json.dumps(sorted(sys.modules))))
import app.cli
app.cli.main()"""

    *_, printed = run(sys.executable, "-c", code).stdout.splitlines()

    loaded = json.loads(printed)
    assert "app.database.sessions" in loaded
    assert [name for name in loaded if name.startswith(names)] == []
