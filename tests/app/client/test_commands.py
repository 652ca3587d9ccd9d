"""The users' commands on the command line, and the exit codes of their errors."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from app.client import USER_COMMANDS
from app.client.commands.all import add_user_commands
from app.client.commands.session import command, run
from app.client.errors import Refused
from app.client.exits import MEANINGS, ExitCode

# What only the server's side needs; a pipeline would wait for it at every command.
HEAVY = ("sqlalchemy", "strawberry", "starlette", "dramatiq", "app.main", "app.models", "app.catalog", "app.settings")


def user_cli() -> typer.Typer:
    cli = typer.Typer()
    add_user_commands(cli)
    return cli


@pytest.mark.parametrize("name", USER_COMMANDS)
def test_every_command_tells_its_exit_codes(name: str) -> None:
    result = CliRunner().invoke(user_cli(), [name, "--help"], env={"COLUMNS": "120", "TERM": "dumb"})
    shown = " ".join(result.output.split())

    assert set(MEANINGS) == set(ExitCode)
    for code, meaning in MEANINGS.items():
        assert f" {code.value} {meaning}" in shown
    assert "--json" in shown


@pytest.mark.parametrize("name", USER_COMMANDS)
def test_every_command_is_in_the_documentation(name: str) -> None:
    lines = (Path(__file__).parents[3] / "docs/cli.md").read_text().splitlines()
    table = lines[lines.index("| for users | |") : lines.index("| for operators | |")]

    assert re.search(rf"`(images )?{name}[ `]", "\n".join(table))


def loaded_by(*arguments: object) -> list[str]:
    """The modules that are loaded when `add_user_commands` has been given these arguments."""
    code = f"""
import json, sys, typer
from app.client.commands.all import add_user_commands
add_user_commands(typer.Typer(), *{arguments!r})
print(json.dumps(sorted(sys.modules)))
"""
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found: list[str] = json.loads(printed)
    return found


def test_the_client_loads_nothing_of_the_servers_side() -> None:
    loaded = loaded_by()

    assert "app.client.transfer.uploading" in loaded
    assert [name for name in loaded if name.startswith(HEAVY)] == []


def test_a_command_loads_nothing_of_the_others() -> None:
    loaded = loaded_by("list")

    assert "app.client.commands.list" in loaded
    others = ("app.client.transfer", "app.client.feed", "app.client.generated.usage", "app.client.commands.upload")
    assert [name for name in loaded if name.startswith(others)] == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("No."), ExitCode.REFUSED),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (ZeroDivisionError(), ExitCode.DEFECT),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_whatever_goes_wrong_becomes_an_exit_code(
    error: BaseException, code: ExitCode, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail() -> None:
        raise error

    for act in (lambda: run(fail()), lambda: (_ for _ in ()).throw(error)):
        with pytest.raises(typer.Exit) as ended, command(as_json=as_json):
            act()
        assert ended.value.exit_code == code

    printed = capsys.readouterr()
    if as_json and code is not ExitCode.DEFECT:
        assert [list(json.loads(line)) for line in printed.out.splitlines()] == [["error"], ["error"]]
        assert printed.err == ""
    else:
        assert printed.out == ""
        assert printed.err != ""


def test_the_exit_codes_are_those_that_are_documented() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "DONE": os.EX_OK,
        "FAILED": 1,
        "USAGE": 2,
        "REFUSED": 3,
        "NOT_ALLOWED": 4,
        "NO_ANSWER": 5,
        "NOT_FOUND": 6,
        "DEFECT": os.EX_SOFTWARE,
        "INTERRUPTED": 130,
        "OUTPUT_CLOSED": 141,
    }
