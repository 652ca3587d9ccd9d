"""The scaled-out gateway as operators run it: PostgreSQL, Redis, MinIO and `images` processes, each to be killed."""

import asyncio
import json
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from app.adapters.s3.bucket import Bucket
from app.adapters.tokens import SecretTokens
from app.catalog import members
from app.commands.starting import migrate_all
from app.database.sessions import Database
from app.lifecycle import ProjectRole
from app.s3_address import S3Address
from app.settings import Settings
from tests.e2e.client import Client, eventually
from tests.e2e.gateway import IMAGES, clean_environment
from tests.servers.minio import Minio, minio_program
from tests.servers.postgresql import PostgreSQL
from tests.servers.process import Server, answers
from tests.servers.redis import Redis

BUCKET = "images"
SECRET = "a secret of thirty-two bytes or more, of a test"
_COMMAND_SECONDS = 120


class ImagesProcess(Server):
    """`images serve`, `images work` or `images schedule`, on the settings of a cluster."""

    # What goes before the command: a program that runs it in another surrounding.
    wrapper: Sequence[str] = ()

    def __init__(self, folder: Path, arguments: Sequence[str], settings: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.arguments = arguments
        self.settings = settings

    @property
    def serves(self) -> bool:
        return self.arguments[0] == "serve"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        listening = ["--host", "127.0.0.1", "--port", str(self.port)] if self.serves else []
        return [*self.wrapper, IMAGES, *self.arguments, *listening]

    def environment(self) -> Mapping[str, str]:
        return self.settings

    def is_ready(self) -> bool:
        if not self.serves:
            return self._process is not None
        if not answers(self.port):
            return False
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def has_ended(self) -> bool:
        """Whether the process has ended by itself."""
        return self._process is not None and self._process.poll() is not None


class Cluster:
    """All processes of a scaled-out gateway. `env` are settings in addition to the three addresses."""

    def __init__(self, folder: Path, *, apis: int = 2, workers: int = 2, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.postgresql = PostgreSQL(folder / "postgresql")
        self.redis = Redis(folder / "redis")
        self.minio = Minio(folder / "minio", minio_program())
        self._numbers = (apis, workers)
        self._env = dict(env or {})
        self.apis: list[ImagesProcess] = []
        self.workers: list[ImagesProcess] = []
        self.settings: dict[str, str] = {}
        self._places: dict[str, str] = {}
        # Held while processes that are supervised are killed or started.
        self.changing = threading.Lock()

    @property
    def servers(self) -> dict[str, Server]:
        """PostgreSQL, Redis and MinIO by name."""
        return {"postgresql": self.postgresql, "redis": self.redis, "minio": self.minio}

    @property
    def processes(self) -> list[ImagesProcess]:
        """The gateway's own processes."""
        return [*self.apis, *self.workers]

    def start(self) -> None:
        """Start everything, make the tables and the bucket, and two projects."""
        _side_by_side(server.start for server in self.servers.values())
        places = {
            "IMAGES_DATABASE_URL": self.postgresql.new_database(migrated=False),
            "IMAGES_BROKER_URL": self.redis.url,
            **self.minio.settings(BUCKET),
            "IMAGES_SECRET": SECRET,
        }
        install(places)
        self._places = dict(places)
        # Only the migration gets it.
        del places["IMAGES_OBJECT_STORE_ADMIN_KEY"]
        self.settings = clean_environment(places | self._env)
        apis, workers = self._numbers
        self.apis = [self._process(f"api-{number}", "serve") for number in range(1, apis + 1)]
        self.workers = [self._process(f"worker-{number}", "work") for number in range(1, workers + 1)]
        _side_by_side(process.start for process in self.processes)

    def stop(self) -> None:
        """End everything, the servers last."""
        _side_by_side(process.stop for process in self.processes)
        _side_by_side(server.stop for server in self.servers.values())

    def kill(self) -> None:
        """The same at once."""
        for process in [*self.processes, *self.servers.values()]:
            process.kill()

    def run(self, *arguments: str) -> str:
        """Run a command of `images` to its end; returns what it printed. Fails when it fails."""
        done = subprocess.run(
            [IMAGES, *arguments],
            env=self.settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
        )
        assert done.returncode == 0, f"images {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def token(self, subject: str = "ann", project: str = "alpha", role: str = "ADMIN") -> str:
        """A token for a subject with a role in a project."""
        return token_of(self._places, subject, project, role)

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """What the database answers to a query."""

        async def ask() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(self.settings["IMAGES_DATABASE_URL"])
            try:
                return [dict(row) for row in await connection.fetch(query, *values)]
            finally:
                await connection.close()

        return asyncio.run(ask())

    def bucket(self) -> Bucket:
        """The bucket of the objects; the caller closes it."""
        return Bucket(S3Address.parse(self.settings["IMAGES_OBJECT_STORE"]))

    def client(self, api: int = 0, token: str | None = None, project: str = "alpha") -> Client:
        """A client of one of the API processes."""
        return Client.with_token(self.apis[api].url, token or self.token(project=project), project)

    @contextmanager
    def supervised(self) -> Iterator[None]:
        """Start the gateway's processes again when they have ended by themselves, as an operator's system does."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.2):
                with self.changing:
                    for process in self.processes:
                        if process.has_ended():
                            process.launch()

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()

    def _process(self, name: str, *arguments: str) -> ImagesProcess:
        return ImagesProcess(self.folder / name, arguments, self.settings)

    def logs(self) -> str:
        """The end of what the gateway's processes said, for a test that failed."""
        return "\n".join(f"--- {process.folder.name}\n{_tail(process.log)}" for process in self.processes)


def install(places: Mapping[str, str], admin: str | None = None) -> None:
    """What `images migrate` and `create-organization` do, without the processes: the projects alpha and beta."""
    settings = _as_settings(places)
    _in_a_thread(lambda: migrate_all(settings))
    _in_database(settings, lambda database: members.create_organization(database, "demo", ["alpha", "beta"], admin))


def token_of(places: Mapping[str, str], subject: str, project: str, role: str) -> str:
    """What `images token` does, without the process."""
    settings = _as_settings(places)
    _in_database(settings, lambda database: members.grant_role(database, project, subject, ProjectRole(role)))
    return SecretTokens(settings.secret_bytes).issue(subject, valid=timedelta(days=1))


def _in_database(settings: Settings, act: Callable[[Database], Awaitable[object]]) -> None:
    async def done() -> None:
        database = Database(settings.database_address)
        try:
            await act(database)
        finally:
            await database.close()

    _in_a_thread(lambda: asyncio.run(done()))


def _as_settings(environment: Mapping[str, str]) -> Settings:
    return Settings(**{name.removeprefix("IMAGES_").lower(): value for name, value in environment.items()})  # type: ignore[arg-type]


def _in_a_thread(act: Callable[[], object]) -> None:
    """Do what runs an event loop of its own, which a thread that has one could not."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(act).result()


def _side_by_side(steps: Iterable[Callable[[], object]]) -> None:
    """Take some steps at the same time, and wait for all of them."""
    with ThreadPoolExecutor() as threads:
        for step in [threads.submit(step) for step in steps]:
            step.result()


@contextmanager
def running_cluster(folder: Path, **options: object) -> Iterator[Cluster]:
    """A cluster that is stopped in order at the end."""
    cluster = Cluster(folder, **options)  # type: ignore[arg-type]
    try:
        cluster.start()
        yield cluster
        cluster.stop()
    finally:
        cluster.kill()


def when_all_serve(cluster: Cluster) -> None:
    """Wait until every API process is ready."""
    for api in cluster.apis:
        eventually(api.is_ready)


def _tail(log: Path, size: int = 3000) -> str:
    return log.read_text(errors="replace")[-size:] if log.exists() else json.dumps(None)
