"""The users' commands as they are typed, run in this process, against a gateway that answers as a test says."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from typer.testing import CliRunner

from app.client.commands.all import add_user_commands
from tests.support.answers import page
from tests.support.scripted_server import Asked, Reply, ScriptedServer, data

PROJECT = {"id": "prj_1", "name": "alpha"}


@dataclass(frozen=True)
class Run:
    """How a command ended, what it printed, and what it asked for besides the projects."""

    code: int
    out: str
    err: str
    asked: list[Asked]

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The inputs of its mutations."""
        return [asked.variables["input"] for asked in self.asked if "input" in asked.variables]


@contextmanager
def gateway(**answers: list[Reply]) -> Iterator[ScriptedServer]:
    """A server that answers each operation by its name, in turn, and has one project."""
    left = {"Projects": [data(viewer={"projects": page(PROJECT)})] * 9, **answers}
    with ScriptedServer(lambda asked: left[asked.operation].pop(0)).running() as server:
        yield server


def ran(*arguments: str, **answers: list[Reply]) -> Run:
    """Run a command against a gateway that answers so."""
    with gateway(**answers) as server:
        found = typed(arguments, {"IMAGES_URL": server.url, "IMAGES_TOKEN": "t"})
    asked = [asked for asked in server.asked if asked.operation != "Projects"]
    return Run(found.code, found.out, found.err, asked)


def typed(arguments: tuple[str, ...], env: Mapping[str, str]) -> Run:
    """Run a command against the gateway that the environment names."""
    cli = typer.Typer()
    add_user_commands(cli, only=arguments[0])
    # A line of commands that has only one of them would take its name for an argument.
    cli.callback()(lambda: None)
    nothing = dict.fromkeys(("IMAGES_URL", "IMAGES_TOKEN", "IMAGES_PROJECT", "IMAGES_CONNECTION"), "")
    result = CliRunner().invoke(cli, arguments, env=nothing | dict(env))
    return Run(result.exit_code, result.stdout, result.stderr, [])
