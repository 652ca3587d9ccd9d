"""A PostgreSQL of its own for tests: started in a folder, killed, and started again on the same data."""

import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import psutil

from app.database.migrations import migrate
from tests.servers.process import Server

USER, PASSWORD = "gateway", "a/password: of tests"
_ADDRESS = "postgresql://gateway:a%2Fpassword%3A%20of%20tests@127.0.0.1"
_COMMAND_SECONDS = 60
_END_SECONDS = 30


@cache
def programs() -> Path | None:
    """The folder of the newest PostgreSQL on this machine, which need not be on PATH; None when there is none."""
    # Debian keeps every version in a folder of its own.
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    found = installed[-1] if installed else shutil.which("postgres")
    return Path(found).parent if found else None


class PostgreSQL(Server):
    """PostgreSQL in `folder`, with a password for everybody who comes.

    What is committed outlasts a kill; without `fsync`, which is faster, a power cut of the machine it does not.
    """

    gentle_signal = signal.SIGINT  # the fast shutdown: who is connected is sent away

    def __init__(self, folder: Path, *, fsync: bool = True) -> None:
        super().__init__(folder)
        self.data = folder / "data"
        self.fsync = fsync
        self._names = itertools.count(1)
        self._made: list[str] = []
        self._template: str | None = None

    @property
    def url(self) -> str:
        """The database that there is from the start, without tables."""
        return self.url_of("postgres")

    def url_of(self, name: str) -> str:
        """The address of a database, as IMAGES_DATABASE_URL takes it."""
        return f"{_ADDRESS}:{self.port}/{name}"

    def new_database(self, *, migrated: bool = True) -> str:
        """The address of a new database, with the tables or, as an operator begins, without."""
        name = f"test_{next(self._names)}"
        template = self._migrated_template() if migrated else "template0"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template} {self._strategy()}")
        self._made.append(name)
        return self.url_of(name)

    def drop_databases(self) -> None:
        """Drop all databases that `new_database` has made, and close the connections that still use them."""
        self.sql(*(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)" for name in self._made))
        self._made.clear()

    def sql(self, *statements: str, database: str = "postgres") -> str:
        """Run statements as the superuser, each in its own transaction. Returns rows as text; fails when one fails."""
        arguments = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]
        commands = [f"--command={statement}" for statement in statements]
        return self._run("psql", *arguments, f"--dbname={self.url_of(database)}", *commands)

    def _migrated_template(self) -> str:
        """The name of a database with the tables, made once: to copy it is faster than to migrate."""
        if self._template is None:
            self.sql("CREATE DATABASE migrated TEMPLATE template0")
            # In a thread, since the migrations run an event loop of their own.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(
                    migrate, "postgresql+asyncpg" + self.url_of("migrated").removeprefix("postgresql")
                ).result()
            self._template = "migrated"
        return self._template

    def _strategy(self) -> str:
        """How the server copies a template (PostgreSQL 15)."""
        # To log each block, as it does by default, takes twice the work of copying files. Those take a checkpoint
        # before and after, which waits for the disk unless `fsync` is off.
        return "STRATEGY FILE_COPY" if not self.fsync and _version() >= 15 else ""

    # ------------------------------------------------------------ the process

    def prepare(self) -> None:
        """Make the cluster, once, of the user who will run it."""
        if (self.data / "PG_VERSION").exists():
            return
        self.data.mkdir()
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            owner = pwd.getpwnam(_unprivileged())
            for path in (self.folder, self.data, password):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        # Nothing of this needs to outlast a power cut of the machine, and the sorting of names has to be ours
        # whatever the language of the database.
        self._run(
            "initdb", f"--pgdata={self.data}", f"--username={USER}", f"--pwfile={password}", "--auth=scram-sha-256",
            "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", *_language(),
            user=True,
        )  # fmt: skip

    def command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "log_min_messages": "warning",
        }
        if not self.fsync:
            # By default the log would grow to a gigabyte.
            settings |= {"fsync": "off", "max_wal_size": "256MB"}
        given = [f"-c{name}={value}" for name, value in settings.items()]
        return [*_as_user(), str(_folder() / "postgres"), "-D", str(self.data), "-p", str(self.port), *given]

    def is_ready(self) -> bool:
        probe = [str(_folder() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(probe, timeout=_COMMAND_SECONDS).returncode == 0

    def kill(self) -> None:
        """End it and the processes of its connections, which have sessions of their own, at once."""
        if self._process is None:
            return
        family = []
        if self._process.poll() is None:
            postmaster = psutil.Process(self._process.pid)
            postmaster.suspend()  # so that it starts no more of them
            family = postmaster.children(recursive=True)
        super().kill()
        for process in family:
            if process.is_running():
                process.kill()
        psutil.wait_procs(family, _END_SECONDS)

    def _run(self, program: str, *arguments: str, user: bool = False) -> str:
        done = subprocess.run(
            [*(_as_user() if user else []), str(_folder() / program), *arguments],
            cwd=self.folder,
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        return done.stdout.strip()


_ENVIRONMENT: Mapping[str, str] = {"LC_ALL": "C.UTF-8", "PGOPTIONS": "", "PGCONNECT_TIMEOUT": "10"}


def _folder() -> Path:
    folder = programs()
    if folder is None:
        raise RuntimeError("there is no PostgreSQL: apt-get install postgresql")
    return folder


def _unprivileged() -> str:
    """Whom a root hands the server to, which refuses to be root."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _as_user() -> list[str]:
    """What goes before a command that refuses root: another user, who may still enter root's temporary folders."""
    if os.geteuid() != 0:
        return []
    capability = "--inh-caps=-all,+dac_override"
    return ["setpriv", f"--reuid={_unprivileged()}", "--clear-groups", capability, "--ambient-caps=-all,+dac_override"]


@cache
def _version() -> int:
    """The major version; 0 when it says none."""
    printed = subprocess.run(
        [str(_folder() / "postgres"), "--version"], capture_output=True, text=True, timeout=_COMMAND_SECONDS
    )
    found = re.search(r"\d+", printed.stdout)
    return int(found[0]) if found else 0


def _language() -> list[str]:
    """A language that sorts otherwise than by code points, where this version can."""
    return ["--locale-provider=icu", "--icu-locale=en-US"] if _version() >= 15 else []
