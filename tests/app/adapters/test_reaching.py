"""A wrong or unreachable address is named with the reason, and never with the secret in it."""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from app.adapters import reaching
from app.adapters.reaching import troubles, wait_until_reached
from app.adapters.trouble import BROKER, DATABASE, STORE, Trouble
from app.commands.doctor import findings
from app.errors import SettingsError
from app.s3_address import S3Address
from app.settings import Settings, load_settings
from tests.servers.minio import KEY, SECRET, Minio
from tests.servers.postgresql import PostgreSQL
from tests.servers.process import free_port
from tests.servers.redis import Redis
from tests.support.s3_places import upload_key_of, with_limited_keys

# In every address: it must be in no message.
WRONG = "geheim"
ONE_SERVER_EACH = pytest.mark.parametrize("name", ["database_url", "broker_url", "object_store"])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests don't count."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"IMAGES_{name.upper()}", raising=False)


def settings(**given: str) -> Settings:
    """Settings with a secret, and otherwise as they are when nobody says anything."""
    return load_settings(**{"secret": "s" * 32} | given)


def address_on(name: str, port: int) -> str:
    """An address of one of the three kinds on a port of this machine."""
    return {
        "database_url": f"postgresql://gateway:{WRONG}@127.0.0.1:{port}/images",
        "broker_url": f"redis://:{WRONG}@127.0.0.1:{port}/0",
        "object_store": f"s3+http://images:{WRONG}@127.0.0.1:{port}/images",
    }[name]


def only(found: list[Trouble]) -> Trouble:
    """The one trouble that there is; what it says is fit to be shown."""
    (trouble,) = found
    assert WRONG not in str(trouble)
    assert "127.0.0.1" not in str(trouble)
    return trouble


def with_password(address: str, password: str) -> str:
    """An address with another password in it."""
    parts = urlsplit(address)
    user = f"{parts.username}:" if parts.username else ":"
    return parts._replace(netloc=f"{user}{password}@{parts.netloc.rpartition('@')[2]}").geturl()


def test_what_can_be_used_is_no_trouble(postgresql: PostgreSQL, redis: Redis, minio: Minio) -> None:
    url = minio.store_url("reached", "below")
    limited = with_limited_keys(S3Address.parse(url))
    key = upload_key_of(limited)
    store = {
        "object_store": url.replace(f"{KEY}:{SECRET}", f"{limited.key}:{limited.secret}"),
        "object_store_upload_key": f"{key.name}:{key.secret}",
    }
    assert troubles(settings(database_url=postgresql.url, broker_url=redis.url, **store)) == []


def test_nothing_outside_is_no_trouble() -> None:
    assert troubles(settings()) == []
    assert troubles(settings(object_store="file:///somewhere")) == []


@ONE_SERVER_EACH
def test_a_port_on_which_nobody_listens_is_named_and_may_become_right(name: str) -> None:
    trouble = only(troubles(settings(**{name: address_on(name, free_port())})))
    assert trouble.setting == f"IMAGES_{name.upper()}"
    assert not trouble.wrong
    assert re.search(r"(can't be reached: Connection refused|does not answer)", trouble.reason)


@ONE_SERVER_EACH
def test_a_server_that_says_nothing_is_given_up_soon(
    name: str, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "TRY_SECONDS", 0.1)
    silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    trouble = only(troubles(settings(**{name: address_on(name, silent.getsockname()[1])})))
    assert "does not answer in time" in trouble.reason
    assert not trouble.wrong


@pytest.mark.parametrize("tls", ["prefer", "disable"])
def test_a_database_that_closes_the_connection_may_be_restarting(tls: str, stack: ExitStack) -> None:
    closing = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def serve() -> None:
        with closing.accept()[0] as connection:
            connection.recv(1024)

    served = Thread(target=serve)
    served.start()
    address = address_on("database_url", closing.getsockname()[1])
    trouble = only(troubles(settings(database_url=f"{address}?sslmode={tls}")))
    served.join()
    assert not trouble.wrong


@ONE_SERVER_EACH
def test_a_host_that_there_is_not_is_named(name: str) -> None:
    address = address_on(name, 1).replace("127.0.0.1", "no-such-host.invalid")
    trouble = only(troubles(settings(**{name: address})))
    assert trouble.setting == f"IMAGES_{name.upper()}"
    assert "no-such-host" not in trouble.reason


def test_a_wrong_password_of_the_database_is_wrong_for_good(postgresql: PostgreSQL) -> None:
    trouble = only(troubles(settings(database_url=with_password(postgresql.url, WRONG))))
    assert trouble == Trouble(DATABASE, "PostgreSQL refuses the user or the password", wrong=True)


def test_a_database_that_there_is_not_is_wrong_for_good(postgresql: PostgreSQL) -> None:
    trouble = only(troubles(settings(database_url=postgresql.url_of("no_such_database"))))
    assert trouble == Trouble(DATABASE, "PostgreSQL has no database of that name", wrong=True)


@pytest.mark.parametrize("password", [WRONG, ""])
def test_a_wrong_password_of_redis_is_wrong_for_good(tmp_path: Path, stack: ExitStack, password: str) -> None:
    server = stack.enter_context(Redis(tmp_path, password="right"))
    assert troubles(settings(broker_url=server.url)) == []
    trouble = only(troubles(settings(broker_url=with_password(server.url, password))))
    assert trouble == Trouble(BROKER, "Redis refuses the user or the password", wrong=True)


@pytest.mark.parametrize(("ending", "reason"), [("/100000", "Redis refuses"), ("/0?colour=blue", "option")])
def test_a_redis_address_that_can_not_work_is_wrong_for_good(redis: Redis, ending: str, reason: str) -> None:
    trouble = only(troubles(settings(broker_url=redis.url.removesuffix("/0") + ending)))
    assert trouble.wrong
    assert reason in trouble.reason


def test_a_wrong_secret_of_the_store_is_wrong_for_good(minio: Minio) -> None:
    address = minio.store_url("images").replace("images-secret", WRONG)
    trouble = only(troubles(settings(object_store=address)))
    assert trouble == Trouble(STORE, "the object store refuses the request: SignatureDoesNotMatch", wrong=True)


def test_a_wrong_key_of_the_store_is_wrong_for_good(minio: Minio) -> None:
    address = minio.store_url("images").replace("images:", "nobody:")
    trouble = only(troubles(settings(object_store=address)))
    assert trouble == Trouble(STORE, "the object store refuses the request: InvalidAccessKeyId", wrong=True)


def test_a_bucket_that_there_is_not_is_wrong_for_good(minio: Minio) -> None:
    trouble = only(troubles(settings(object_store=minio.store_url("no-such-bucket"))))
    assert trouble == Trouble(STORE, "the object store has no such bucket", wrong=True)


# ---------------------------------------------------------------- starting


UNREACHED = Trouble(DATABASE, "it is away")


def test_who_starts_waits_for_what_is_started_beside_it_and_says_so_once() -> None:
    looks = iter([[UNREACHED], [UNREACHED], []])
    with capture_logs() as logs:
        wait_until_reached(settings(), lambda _: next(looks))
    assert [(line["event"], line["setting"]) for line in logs] == [("start.not_reached", DATABASE)]


def test_who_starts_does_not_wait_for_ever() -> None:
    with pytest.raises(SettingsError, match="IMAGES_DATABASE_URL: it is away"):
        wait_until_reached(settings(), lambda _: [UNREACHED], seconds=0)


def test_who_starts_does_not_wait_for_what_is_wrong() -> None:
    both = [UNREACHED, Trouble(STORE, "no such bucket", wrong=True)]
    with pytest.raises(SettingsError, match=r"^IMAGES_OBJECT_STORE: no such bucket$"):
        wait_until_reached(settings(), lambda _: both)


def test_who_starts_does_not_wait_for_the_broker_and_says_so() -> None:
    with capture_logs() as logs:
        wait_until_reached(settings(), lambda _: [Trouble(BROKER, "it is away")])
    assert [(line["setting"], line["reason"]) for line in logs] == [(BROKER, "it is away")]


# ---------------------------------------------------------------- the doctor


@ONE_SERVER_EACH
def test_the_doctor_says_which_place_can_not_be_reached_and_what_to_do(name: str) -> None:
    port = free_port()
    found = {finding.name: finding for finding in findings(settings(**{name: address_on(name, port)}))}
    finding = found[{"database_url": "database", "broker_url": "broker", "object_store": "object store"}[name]]
    assert not finding.ok
    assert finding.needed
    assert str(port) in finding.state
    assert WRONG not in str(found)
    assert f"IMAGES_{name.upper()}" in str(finding.remedy)


def test_the_doctor_is_content_with_places_that_answer_and_looks_at_no_folder(
    tmp_path: Path, postgresql: PostgreSQL, redis: Redis
) -> None:
    given = {"database_url": postgresql.url, "broker_url": redis.url}
    found = {finding.name: finding for finding in findings(settings(data=str(tmp_path), **given))}
    assert found["database"].ok
    assert found["broker"].ok
    assert found["secret"].ok
    assert "data folder" in found


def test_the_doctor_asks_for_one_secret_of_all_machines(postgresql: PostgreSQL) -> None:
    given = load_settings(database_url=postgresql.url)
    (secret,) = [finding for finding in findings(given) if finding.name == "secret"]
    assert not secret.ok
    assert "IMAGES_SECRET" in str(secret.remedy)
