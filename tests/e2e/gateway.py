"""A gateway as its operators run it: `images up` in a process of its own, on a free port and a folder of the test."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

IMAGES = str(Path(sys.executable).with_name("images"))

_START_SECONDS = 60
_STOP_SECONDS = 30
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Gateway:
    """A gateway that answers; what it printed is in `log`. End it by `stop` or `kill`, and `start` it again."""

    process: subprocess.Popen[bytes]
    data: Path
    log: Path
    url: str
    graphql: str
    token: str
    projects: Mapping[str, str]
    """The ids of the projects, by name."""

    @property
    def port(self) -> int:
        """Where it listens; give it to `start` to have the next one in the same place."""
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def stop(self) -> None:
        """SIGTERM, as an operator does. Fails unless the process ends in time, and with exit code 0."""
        self.process.terminate()
        assert self._ended() == 0, self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL: the process gets no time for anything."""
        self.process.kill()
        self._ended()

    def post(self, document: str, **variables: Any) -> dict[str, Any]:
        """Run an operation; returns its data. Fails when the answer has errors."""
        answer = httpx.post(
            self.graphql,
            json={"query": document, "variables": variables},
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=30,
        ).json()
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    def _ended(self) -> int:
        try:
            return self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(_STOP_SECONDS)
            raise


def start(
    data: Path,
    env: Mapping[str, str] | None = None,
    port: int = 0,
    open_files: int | None = None,
    program: Sequence[str] = (IMAGES,),
) -> Gateway:
    """Start a gateway on the folder `data`, new or kept from an earlier one, and wait until it is ready.

    `env` are settings (IMAGES_…); port 0 takes a free one; `open_files` is the hard limit of the process; `program` is
    what runs in place of `images`. What it prints goes to `data`.log.
    """
    connection = data / "connection.json"
    connection.unlink(missing_ok=True)
    log = data.with_name(f"{data.name}.log")
    command = [*program, "up", "--data", str(data), "--host", "127.0.0.1", "--port", str(port)]
    if open_files is not None:
        command = ["sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh", *command]
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command,
            env=clean_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        return _when_ready(process, data, log)
    except BaseException:
        process.kill()
        process.wait(_STOP_SECONDS)
        raise


@contextmanager
def running(data: Path, env: Mapping[str, str] | None = None) -> Iterator[Gateway]:
    """A gateway on the folder `data`, stopped in order at the end."""
    gateway = start(data, env)
    try:
        yield gateway
    except BaseException:
        gateway.kill()
        raise
    gateway.stop()


def clean_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process: this one's without any IMAGES_…, and `env`. Without that, it runs no servers."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("IMAGES_")}
    return {**inherited, "IMAGES_SERVERS": "off", **(env or {})}


def _when_ready(process: subprocess.Popen[bytes], data: Path, log: Path) -> Gateway:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        content = _read(data / "connection.json")
        if content is not None and _is_ready(content["url"]):
            projects = {project["name"]: project["id"] for project in content["projects"]}
            return Gateway(process, data, log, content["url"], content["graphql"], content["token"], projects)
        said = log.read_text(errors="replace")
        assert process.poll() is None, f"`images up` ended with {process.returncode}:\n{said}"
        assert time.monotonic() < deadline, f"`images up` is not ready after {_START_SECONDS} s:\n{said}"
        time.sleep(_POLL_SECONDS)


def _read(connection: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(connection.read_text())
    except FileNotFoundError:
        return None
    return content


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False
