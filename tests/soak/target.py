"""The gateway that is attacked: `images up`, or the processes of a cluster, each with a count of its tasks."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from app.adapters.tokens import SecretTokens
from tests.e2e.client import Client
from tests.e2e.cluster import SECRET, ImagesProcess, running_cluster
from tests.e2e.gateway import IMAGES, clean_environment
from tests.servers.process import Server

# Room for whatever is left undeleted when users are interrupted.
_LIMITS = {"IMAGES_CUSTOM_IMAGES_LIMIT": "10000", "IMAGES_IMAGE_STORAGE_LIMIT_GIB": "100000"}
# Where the probe is found, whatever folder a process is started in.
_PROBE = {"PYTHONPATH": str(Path(__file__).parents[2])}
_ATTACKER = "eve"
_JOIN = """
mutation Join($input: SetProjectMemberInput!) { setProjectMember(input: $input) { userErrors { message } } }"""
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
        """A client of the legitimate user; the caller closes it."""
        return Client(self.url, self.user, self.project)

    def attacking_client(self) -> Client:
        """A client of the attacker; the caller closes it."""
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
    with _Up(folder, clean_environment({**_LIMITS, "IMAGES_SECRET": SECRET})) as server:
        connection = json.loads((server.data / "connection.json").read_text())
        projects = {project["name"]: project["id"] for project in connection["projects"]}
        with Client(connection["url"], connection["token"], projects["beta"]) as admin:
            _let_in(admin)
        yield Target(
            connection["url"],
            connection["token"],
            _issue(_ATTACKER),
            _issue("ann", timedelta(minutes=-1)),
            projects["alpha"],
            projects["beta"],
            [Watched(psutil.Process(server.pid), server.tasks)],
        )


@contextmanager
def scaled_out(folder: Path) -> Iterator[Target]:
    """One API process and one worker on PostgreSQL, Redis and MinIO; the servers themselves are not watched."""
    with _probes(), running_cluster(folder, apis=1, workers=1, env={**_LIMITS, **_PROBE}) as cluster:
        with cluster.client(project="alpha") as ours, cluster.client(project="beta") as theirs:
            _let_in(theirs)
            yield Target(
                cluster.apis[0].url,
                cluster.token(),
                _issue(_ATTACKER),
                _issue("ann", timedelta(minutes=-1)),
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


def _let_in(admin: Client) -> None:
    """Make the attacker a member of the project that `admin` administers."""
    given = {"projectId": admin.project_id, "subject": _ATTACKER, "role": "MEMBER"}
    answer = admin.ask(_JOIN, input=given)["setProjectMember"]
    assert not answer["userErrors"], answer


def _issue(subject: str, valid: timedelta = timedelta(days=1)) -> str:
    return SecretTokens(SECRET.encode()).issue(subject, valid=valid)


def read_tasks(file: Path) -> int:
    """How many tasks a probe counted last; 0 when it has not looked yet."""
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return 0
