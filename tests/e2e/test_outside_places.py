"""The commands on PostgreSQL, Redis and MinIO: what they need, what they say when it is not there, what they leave."""

import itertools
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.e2e.client import Client, eventually
from tests.e2e.cluster import install, token_of
from tests.e2e.gateway import running
from tests.e2e.images import DENSE, Variant
from tests.e2e.processes import images_command, images_process
from tests.servers.minio import Minio
from tests.servers.postgresql import PASSWORD, PostgreSQL
from tests.servers.process import free_port
from tests.servers.redis import Redis

SECRET = "a secret of thirty-two bytes or more, of a test"
_NUMBERS = itertools.count(500)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def outside(postgresql: PostgreSQL, redis: Redis, minio: Minio) -> dict[str, str]:
    """Settings of a gateway that is not there yet, with everything outside of this machine."""
    number = next(_NUMBERS)
    return {
        "IMAGES_DATABASE_URL": postgresql.new_database(migrated=False),
        "IMAGES_BROKER_URL": redis.database(number),
        **minio.settings(f"outside-{number}"),
        "IMAGES_SECRET": SECRET,
        "IMAGES_POLL_SECONDS": "0.2",
    }


@pytest.fixture
def installed(outside: dict[str, str]) -> dict[str, str]:
    """The same when tables, bucket and two projects are there."""
    install(outside, "ann")
    return outside


def run(*arguments: str, env: dict[str, str]) -> str:
    """A command that succeeds; returns what it printed."""
    done = images_command(*arguments, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*arguments: str, env: dict[str, str]) -> str:
    """The one line in which a command says why it can't work."""
    done = images_command(*arguments, env=env)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("images: ")
    assert PASSWORD not in done.stderr
    assert "geheim" not in done.stderr
    return line


def serving(log: Path, env: dict[str, str], stack: ExitStack) -> "subprocess.Popen[bytes]":
    return stack.enter_context(images_process(log, "serve", "--port", "0", env=env))


def address(log: Path, process: "subprocess.Popen[bytes]") -> str:
    """Where a process says that it listens, as soon as it does."""

    def said() -> "re.Match[str] | None":
        text = log.read_text()
        assert process.poll() is None, text
        return re.search(r"listening on (http://[^\s;]+)", text)

    found = eventually(said)
    assert found is not None
    return found[1]


def test_an_installation_begins_with_migrate_found_and_token(outside: dict[str, str], tmp_path: Path) -> None:
    run("migrate", env=outside)
    again = run("migrate", env=outside)
    printed = run("create-organization", "--organization", "demo", "--project", "gamma", env=outside)
    token = run("token", "--subject", "max", "--project", "gamma", "--role", "member", env=outside)

    assert "the database is up to date" in again
    assert re.fullmatch(r"prj_\w{26}  gamma\n", printed)
    with ExitStack() as stack:
        log = tmp_path / "log"
        url = address(log, serving(log, outside, stack))
        client = stack.enter_context(Client.with_token(url, token.strip(), "gamma"))
        assert client.image_ids() == []
        assert httpx.get(f"{url}/readyz").json()["checks"] == {"database": "ok", "store": "ok", "broker": "ok"}
        assert httpx.get(f"{url}/objects/blobs/some").status_code == 404


def test_the_first_administrator_is_the_one_that_is_named(outside: dict[str, str], tmp_path: Path) -> None:
    run("migrate", env=outside)
    projects = ("--project", "alpha", "--project", "beta")
    run("create-organization", "--organization", "demo", *projects, "--admin", "ann", env=outside)
    with ExitStack() as stack:
        log = tmp_path / "log"
        url = address(log, serving(log, outside, stack))
        # A token of another project, and so nothing but a name.
        run("create-organization", "--organization", "other", "--project", "delta", env=outside)
        token = token_of(outside, "ann", "delta", "READER")
        client = stack.enter_context(Client.with_token(url, token, "alpha"))
        found = client.ask("{ viewer { projects(first: 9) { nodes { name viewerRole } } } }")
        roles = {node["name"]: node["viewerRole"] for node in found["viewer"]["projects"]["nodes"]}
        assert roles == {"alpha": "ADMIN", "beta": "ADMIN", "delta": "READER"}


@pytest.mark.parametrize(
    ("command", "says"), [("serve", "listening on"), ("work", "working on"), ("schedule", "keeping time")]
)
def test_with_everything_outside_nothing_is_written_here(
    installed: dict[str, str], tmp_path: Path, stack: ExitStack, command: str, says: str
) -> None:
    data = tmp_path / "data"
    env = {**installed, "IMAGES_DATA": str(data), "IMAGES_PORT": "0"}
    run("migrate", env=env)
    log = tmp_path / "log"
    process = stack.enter_context(images_process(log, command, env=env))
    eventually(lambda: says in log.read_text() or process.poll() is not None)
    process.terminate()
    assert process.wait(60) == 0, log.read_text()
    assert not data.exists()


@pytest.mark.parametrize("command", ["serve", "work", "token"])
def test_tables_that_are_not_there_are_not_made_by_the_way(outside: dict[str, str], command: str) -> None:
    arguments = ("--subject", "ann", "--project", "alpha", "--role", "reader") if command == "token" else ()
    env = {name: value for name, value in outside.items() if name != "IMAGES_OBJECT_STORE"}
    line = refused(command, *arguments, env=env)
    assert "IMAGES_DATABASE_URL" in line
    assert "images migrate" in line


@pytest.mark.parametrize(
    ("command", "name", "wrong", "reason"),
    [
        ("serve", "IMAGES_DATABASE_URL", ("/test_", "/no_test_"), "has no database of that name"),
        ("work", "IMAGES_DATABASE_URL", ("://gateway:", "://gateway:geheim"), "refuses the user or the password"),
        ("serve", "IMAGES_OBJECT_STORE", ("/outside-", "/no-outside-"), "no such bucket"),
        ("schedule", "IMAGES_OBJECT_STORE", (":images-secret@", ":geheim@"), "SignatureDoesNotMatch"),
        ("serve", "IMAGES_BROKER_URL", ("?", "?colour=geheim"), "an option"),
    ],
)
def test_an_address_that_is_wrong_ends_a_process_at_once(
    outside: dict[str, str], minio: Minio, command: str, name: str, wrong: tuple[str, str], reason: str
) -> None:
    # The administrator's key is there before any migration.
    outside["IMAGES_OBJECT_STORE"] = minio.store_url("outside-0")
    right = outside[name] + ("?" if name == "IMAGES_BROKER_URL" else "")
    line = refused(command, env={**outside, name: right.replace(*wrong)})
    assert f"{name}: " in line
    assert reason in line


def test_a_process_waits_for_the_store_that_is_started_beside_it(
    installed: dict[str, str], minio: Minio, tmp_path: Path, stack: ExitStack
) -> None:
    own = Minio(tmp_path / "minio", minio.program)
    env = {**installed, **own.settings("late")}
    with own:
        run("migrate", env=env)
    log = tmp_path / "log"
    process = serving(log, env, stack)
    eventually(lambda: "start.not_reached" in log.read_text())
    assert "IMAGES_OBJECT_STORE" in log.read_text()
    stack.enter_context(own)
    assert httpx.get(f"{address(log, process)}/readyz").status_code == 200


def test_a_gateway_starts_and_answers_without_redis(
    installed: dict[str, str], tmp_path: Path, stack: ExitStack
) -> None:
    env = {**installed, "IMAGES_BROKER_URL": f"redis://:geheim@127.0.0.1:{free_port()}/0"}
    log = tmp_path / "log"
    url = address(log, serving(log, env, stack))
    token = token_of(installed, "ann", "alpha", "ADMIN")
    with Client.with_token(url, token, "alpha") as client:
        assert client.image_ids() == []
    answer = httpx.get(f"{url}/readyz")
    assert answer.status_code == 200
    assert answer.json()["checks"]["broker"].startswith("degraded: Redis can't be reached")
    assert "IMAGES_BROKER_URL" in log.read_text()
    assert "geheim" not in log.read_text()


def test_without_a_broker_the_clock_can_not_be_elsewhere(tmp_path: Path) -> None:
    line = refused("work", "--no-schedule", env={"IMAGES_DATA": str(tmp_path / "data")})
    assert "IMAGES_BROKER_URL" in line
    assert not (tmp_path / "data").exists()


@pytest.mark.needs_program("qemu-img")
def test_what_one_process_takes_in_another_converts_when_redis_tells_it(
    redis: Redis, tmp_path: Path, stack: ExitStack
) -> None:
    source = Variant("announced", "VMDK", DENSE).build(tmp_path)
    env = {"IMAGES_DATA": str(tmp_path / "data"), "IMAGES_BROKER_URL": redis.database(next(_NUMBERS))}
    run("create-organization", "--organization", "demo", "--project", "alpha", env=env)
    token = run("token", "--subject", "ann", "--project", "alpha", "--role", "admin", env=env).strip()
    url = address(tmp_path / "log", serving(tmp_path / "log", env, stack))
    # No worker polls for jobs: only a message from Redis starts one.
    stack.enter_context(images_process(tmp_path / "work.log", "work", "--no-schedule", env=env))
    client = stack.enter_context(Client.with_token(url, token, "alpha"))

    image_id = client.upload(source)

    client.check_holds(image_id, source, "vmdk", tmp_path)
    assert client.statuses(image_id) == ["QUEUED", "SAVING", "ACTIVE"]


@pytest.mark.needs_program("qemu-img")
def test_what_redis_forgot_the_clock_of_another_process_brings_back(tmp_path: Path, stack: ExitStack) -> None:
    source = Variant("forgotten", "VMDK", DENSE).build(tmp_path)
    own = Redis(tmp_path / "redis")
    env = {"IMAGES_DATA": str(tmp_path / "data"), "IMAGES_BROKER_URL": own.url, "IMAGES_POLL_SECONDS": "0.2"}
    with own:
        run("create-organization", "--organization", "demo", "--project", "alpha", env=env)
        token = run("token", "--subject", "ann", "--project", "alpha", "--role", "admin", env=env).strip()
        url = address(tmp_path / "log", serving(tmp_path / "log", env, stack))
        client = stack.enter_context(Client.with_token(url, token, "alpha"))
        image_id = client.upload(source)
    stack.enter_context(own)
    work = stack.enter_context(images_process(tmp_path / "work.log", "work", "--no-schedule", env=env))
    clock = stack.enter_context(images_process(tmp_path / "schedule.log", "schedule", env=env))

    client.check_holds(image_id, source, "vmdk", tmp_path)
    for process in (clock, work):
        process.terminate()
        assert process.wait(60) == 0


def test_up_runs_on_all_three(outside: dict[str, str], tmp_path: Path) -> None:
    with running(tmp_path / "data", outside) as gateway, Client.of(gateway) as client:
        assert client.image_ids() == []
        created = client.create(DENSE.write(tmp_path).rename(tmp_path / "disk.raw"))
        assert created
    assert not (tmp_path / "data" / "images.db").exists()
    assert not (tmp_path / "data" / "store").exists()
