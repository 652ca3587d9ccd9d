"""The `images` command as users of a gateway have it: run, or started, with what it prints and how it ends."""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.gateway import IMAGES, clean_environment

SECONDS = 120


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Cli:
    """The `images` command as a user of one gateway has it, in a folder and with a cache of their own."""

    folder: Path
    env: dict[str, str]
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def start(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [IMAGES, *map(str, arguments)],
            cwd=self.folder,
            env=clean_environment({**self.env, **(env or {})}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def __call__(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Ended:
        return ended(self.start(*arguments, env=env))

    def done(self, *arguments: str | Path) -> Any:
        """What a command prints as JSON. Fails unless it ends with 0, and says nothing else."""
        end = self(*arguments, "--json")
        assert (end.code, end.err) == (0, ""), end
        return end.json

    def refused(self, *arguments: str | Path) -> tuple[int, str]:
        """The exit code of a command that fails, and the code of its error in JSON."""
        end = self(*arguments, "--json")
        assert end.err == ""
        return end.code, end.json["error"]["code"]

    def end_all(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate(timeout=SECONDS)


def ended(process: "subprocess.Popen[str]") -> Ended:
    out, err = process.communicate(timeout=SECONDS)
    return Ended(process.returncode, out, err)


MakeCli = Callable[..., Cli]


@contextmanager
def clis(folder: Path) -> Iterator[MakeCli]:
    """Makes commands that go where a connection.json says; what still runs of them at the end is killed."""
    made: list[Cli] = []

    def make(connection: Path, project: str = "alpha", **env: str) -> Cli:
        home = folder / f"home-{len(made)}"
        home.mkdir()
        known = {
            "IMAGES_CONNECTION": str(connection),
            "IMAGES_PROJECT": project,
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        made.append(Cli(home, known | env))
        return made[-1]

    try:
        yield make
    finally:
        for cli in made:
            cli.end_all()
