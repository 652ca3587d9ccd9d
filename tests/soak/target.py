"""The gateway that is attacked: `images up`, or the processes of a cluster, each with a count of its tasks."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from tests.e2e.client import Client
from tests.e2e.cluster import ImagesProcess, running_cluster
from tests.e2e.gateway import IMAGES, clean_environment
from tests.servers.process import Server

# The shortest life of a token that `images token` gives, in seconds, and some more.
EXPIRED_AFTER_SECONDS = 10
# Room for whatever is left undeleted when users are interrupted.
_LIMITS = {"IMAGES_CUSTOM_IMAGES_LIMIT": "10000", "IMAGES_IMAGE_STORAGE_LIMIT_GIB": "100000"}
# Where the probe is found, whatever folder a process is started in.
_PROBE = {"PYTHONPATH": str(Path(__file__).parents[2])}
_FORGED = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJkZW1vLWFkbWluIn0."


@dataclass(frozen=True, slots=True)
class Watched:
    """A process of the gateway, and the file that its probe writes the number of tasks to."""

    process: psutil.Process
    tasks: Path


@dataclass(frozen=True, slots=True)
class Target:
    """Where the gateway answers, who uses it (in project alpha) and who attacks it (a member of beta alone)."""

    url: str
    user: str
    attacker: str
    expired: str
    project: str
    attackers_project: str
    processes: Sequence[Watched]

    @property
    def host(self) -> tuple[str, int]:
        """Where it listens."""
        parts = urlsplit(self.url)
        return str(parts.hostname), parts.port or 80

    @property
    def forged(self) -> str:
        """A token that no gateway has signed."""
        return _FORGED

    def client(self) -> Client:
        """A client of the legitimate user; whoever asks closes it."""
        return Client(self.url, self.user, self.project)

    def attacking_client(self) -> Client:
        """A client of the attacker; whoever asks closes it."""
        return Client(self.url, self.attacker, self.attackers_project)


class _Up(Server):
    """`images up` with a probe, on the port and the folder of the test."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._env = env
        self.tasks = folder / "tasks"
        self.data = folder / "data"

    def command(self) -> Sequence[str]:
        arguments = ["up", "--data", str(self.data), "--host", "127.0.0.1", "--port", str(self.port)]
        return [sys.executable, "-m", "tests.soak.probed", str(self.tasks), IMAGES, *arguments]

    def environment(self) -> Mapping[str, str]:
        return {**self._env, **_PROBE}

    def is_ready(self) -> bool:
        try:
            ready = httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False
        return ready and (self.data / "connection.json").exists()


@contextmanager
def alone(folder: Path) -> Iterator[Target]:
    """One `images up`, on SQLite and a folder."""
    with _Up(folder, clean_environment(_LIMITS)) as server:
        connection = json.loads((server.data / "connection.json").read_text())
        projects = {project["name"]: project["id"] for project in connection["projects"]}
        in_folder = ("--data", str(server.data))
        yield Target(
            connection["url"],
            connection["token"],
            _token("--subject", "eve", "--project", "beta", "--role", "MEMBER", *in_folder),
            _token("--subject", "expired", "--days", "0.0001", *in_folder),
            projects["alpha"],
            projects["beta"],
            [Watched(psutil.Process(server.pid), server.tasks)],
        )


@contextmanager
def scaled_out(folder: Path) -> Iterator[Target]:
    """One API process and one worker on PostgreSQL, Redis and MinIO; the servers themselves are not watched."""
    with _probes(), running_cluster(folder, apis=1, workers=1, env={**_LIMITS, **_PROBE}) as cluster:
        with cluster.client(project="alpha") as ours, cluster.client(project="beta") as theirs:
            yield Target(
                cluster.apis[0].url,
                cluster.token(),
                cluster.token("eve", "beta", "MEMBER"),
                _FORGED,
                ours.project_id,
                theirs.project_id,
                [Watched(psutil.Process(each.pid), each.folder / "tasks") for each in cluster.processes],
            )


@contextmanager
def _probes() -> Iterator[None]:
    """Runs each process of a cluster with a probe, which writes into the folder of that process."""
    before = ImagesProcess.wrapper
    ImagesProcess.wrapper = [sys.executable, "-m", "tests.soak.probed", "tasks"]
    try:
        yield
    finally:
        ImagesProcess.wrapper = before


def _token(*arguments: str) -> str:
    done = subprocess.run([IMAGES, "token", *arguments], env=clean_environment(), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"images token: {done.stderr}")
    return done.stdout.strip()


def read_tasks(file: Path) -> int:
    """How many tasks a probe counted last; 0 when it has not looked yet."""
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return 0
