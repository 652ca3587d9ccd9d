"""Starts what is measured, and what it is measured against, as processes of their own."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from app.adapters.tokens import SecretTokens

_SECRET = "a secret of thirty-two bytes or more, to measure with"
# All watchers of a measurement are one subject.
_MANY_WATCHERS = {"IMAGES_SOCKETS_PER_SUBJECT": "100000", "IMAGES_SUBSCRIPTIONS_PER_SUBJECT": "100000"}
_START_SECONDS = 60
_STOP_SECONDS = 30
ANSWER_SECONDS = 120
_SYNC_SECONDS = 600
_WORTH_SETTLING = 64 << 20
_IMAGES = Path(sys.executable).with_name("images")


class MeasurementFailed(Exception):
    """Raised when something that is measured does not do what it should."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that runs: its address, a token of its administrator, a project, and the process of its API.

    `objects` says how many there are in its store.
    """

    url: str
    token: str
    project_id: str
    process: psutil.Process
    client: httpx.Client
    objects: Callable[[], int]

    @property
    def host(self) -> tuple[str, int]:
        """Where it listens."""
        address = httpx.URL(self.url)
        return address.host, address.port or 80

    @property
    def caller(self) -> dict[str, str]:
        """The header that says who asks."""
        return {"authorization": f"Bearer {self.token}"}

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a query or mutation. Raises MeasurementFailed when it went wrong in any way."""
        answer = self.client.post("/graphql", json={"query": query, "variables": variables}).json()
        data: dict[str, Any] = answer.get("data") or {}
        mistakes = [payload["userErrors"] for payload in data.values() if _has_mistakes(payload)]
        if answer.get("errors") or mistakes:
            raise MeasurementFailed(json.dumps(answer.get("errors") or mistakes))
        return data


@dataclass(frozen=True, slots=True)
class Bare:
    """An application that runs to be measured against: where it listens, and its process."""

    host: tuple[str, int]
    process: psutil.Process


def _has_mistakes(payload: object) -> bool:
    return isinstance(payload, dict) and bool(payload.get("userErrors"))


@contextmanager
def running_gateway(folder: Path) -> Iterator[Gateway]:
    """`images up` on a free port with its data in `folder`."""
    command = [str(_IMAGES), "up", "--data", str(folder / "data"), "--host", "127.0.0.1", "--port", "0"]
    limits = {"IMAGES_CUSTOM_IMAGES_LIMIT": "100000", "IMAGES_IMAGE_STORAGE_LIMIT_GIB": "100000"}
    with _running(command, folder / "gateway.log", limits | _MANY_WATCHERS) as (process, _):
        content = json.loads((folder / "data/connection.json").read_text())
        headers = {"authorization": f"Bearer {content['token']}"}
        with httpx.Client(base_url=content["url"], headers=headers, timeout=ANSWER_SECONDS) as client:
            files = folder / "data/store/objects"
            yield Gateway(
                content["url"],
                content["token"],
                content["projects"][0]["id"],
                process,
                client,
                lambda: sum(path.is_file() for path in files.rglob("*")),
            )


@contextmanager
def running_api(folder: Path, settings: Mapping[str, str], project_id: str, subject: str) -> Iterator[Gateway]:
    """`images serve` on a free port and a database that is there; asked in the name of `subject`."""
    command = [str(_IMAGES), "serve", "--host", "127.0.0.1", "--port", "0"]
    given = {**settings, **_MANY_WATCHERS, "IMAGES_SECRET": _SECRET}
    with _running(command, folder / "gateway.log", given) as (process, line):
        url = line.removeprefix("listening on ")
        token = SecretTokens(_SECRET.encode()).issue(subject)
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=ANSWER_SECONDS) as client:
            yield Gateway(url, token, project_id, process, client, lambda: 0)


@contextmanager
def running_bare(app: str, folder: Path) -> Iterator[Bare]:
    """One of the applications of `bare`, on the same uvicorn as the gateway's."""
    command = [sys.executable, "-m", "tests.bench.bare", app, str(folder)]
    with _running(command, folder / f"{app}.log", {}) as (process, line):
        yield Bare(("127.0.0.1", int(line)), process)


@contextmanager
def _running(command: list[str], log: Path, variables: Mapping[str, str]) -> Iterator[tuple[psutil.Process, str]]:
    """A process that prints a line when it is ready, and that line. Ends the process whatever happens."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=os.environ | variables
        )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
        line = process.stdout.readline().decode().strip() if ready else ""
        if not line:
            raise MeasurementFailed(f"{command[0]} did not start: {log.read_text()[-2000:]}")
        yield psutil.Process(process.pid), line
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_SECONDS)
    if process.stdout is not None:
        process.stdout.close()


def processor_seconds(process: psutil.Process) -> float:
    """The processor time that a process has used so far: unlike a clock, it does not depend on its neighbours."""
    used = process.cpu_times()
    return float(used.user + used.system)


def settle_disk(file: Path) -> None:
    """Wait until a file and what was written before is on the disk, so that it does not burden what is measured next.

    This flushes a whole file system, which other programs use as well. A small file is not worth that.
    """
    if file.stat().st_size >= _WORTH_SETTLING:
        subprocess.run(["sync", "--file-system", str(file.parent)], check=True, timeout=_SYNC_SECONDS)
