"""Several processes on one data folder: API and workers apart, and gateways that know nothing of each other."""

import json
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

import httpx
import pytest

from app.commands.starting import prepare
from app.settings import Settings
from tests.e2e import images
from tests.e2e.client import Client, eventually, stored
from tests.e2e.data_folders import create_organization, grant_admin, token
from tests.e2e.images import DENSE, HOLEY, Variant
from tests.e2e.processes import child_named, images_process

pytestmark = pytest.mark.needs_program("qemu-img")

IMPATIENT = {"IMAGES_LEASE_SECONDS": "2", "IMAGES_POLL_SECONDS": "0.2"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a project, on which no gateway has run yet."""
    data = tmp_path / "data"
    prepare(Settings(data=data))
    create_organization(data, "demo", ["alpha"])
    return data


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_what_one_process_takes_in_another_converts(data: Path, tmp_path: Path, processes: ExitStack) -> None:
    slow = images.slow_to_copy(tmp_path)
    client = _serving(data, tmp_path / "serve.log", processes)
    work = processes.enter_context(_working(data, tmp_path / "work.log"))

    image_id = client.upload(slow)
    eventually(lambda: child_named(work.pid, "qemu-img", "convert"))
    work.kill()
    work.wait(30)
    assert client.image(image_id)["status"] == "SAVING"
    work = processes.enter_context(_working(data, tmp_path / "work.log"))

    client.check_holds(image_id, slow, "vmdk", tmp_path)
    assert client.statuses(image_id) == ["QUEUED", "SAVING", "ACTIVE"]
    work.terminate()
    assert work.wait(30) == 0


def test_of_two_gateways_that_start_at_once_one_gets_the_folder(tmp_path: Path, processes: ExitStack) -> None:
    data = tmp_path / "data"
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    arguments = ("up", "--data", str(data), "--port", "0")
    ups = [processes.enter_context(images_process(log, *arguments, env=IMPATIENT)) for log in logs]

    loser = eventually(lambda: next((up for up in ups if up.poll() is not None), None))

    winner = ups[1 - ups.index(loser)]
    assert loser.returncode == 2
    assert "another `images up`" in logs[ups.index(loser)].read_text()
    url = _address(logs[ups.index(winner)], winner)
    assert json.loads((data / "connection.json").read_text())["url"] == url
    winner.terminate()
    assert winner.wait(30) == 0


def test_gateways_that_start_at_once_share_a_new_folder(tmp_path: Path, processes: ExitStack) -> None:
    data = tmp_path / "data"
    given = ("--data", str(data), "--port", "0")
    ups = {
        name: processes.enter_context(images_process(tmp_path / f"{name}.log", name, *given, env=IMPATIENT))
        for name in ("up", "serve")
    }
    work = processes.enter_context(_working(data, tmp_path / "work.log"))
    urls = [_address(tmp_path / f"{name}.log", up) for name, up in ups.items()]
    first, second = (_client(data, url, processes) for url in urls)
    sources = [Variant("copied", "VHD", HOLEY).build(tmp_path), Variant("kept", "VMDK", DENSE).build(tmp_path)]

    made = [(client.upload(source), source) for source in sources for client in (first, second)]

    for image_id, source in made:
        driver = images.driver_of(source.suffix[1:].upper())
        for client in (first, second):
            client.check_holds(image_id, source, driver, tmp_path)
            assert client.statuses(image_id) == ["QUEUED", "SAVING", "ACTIVE"]
    eventually(lambda: len(stored(data)) == len(made))
    for process in (*ups.values(), work):
        process.terminate()
        assert process.wait(30) == 0
    with closing(sqlite3.connect(data / "images.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []


def _serving(data: Path, log: Path, processes: ExitStack) -> Client:
    """A client of an `images serve` on a folder."""
    arguments = ("serve", "--data", str(data), "--port", "0")
    serve = processes.enter_context(images_process(log, *arguments, env=IMPATIENT))
    return _client(data, _address(log, serve), processes)


def _working(data: Path, log: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return images_process(log, "work", "--data", str(data), env=IMPATIENT)


def _address(log: Path, process: "subprocess.Popen[bytes]") -> str:
    """Where a process says that it listens, as soon as it does."""

    def said() -> "re.Match[str] | None":
        text = log.read_text()
        assert process.poll() is None, text
        return re.search(r"listening on (http://[^\s;]+)", text)

    url = eventually(said)
    assert url is not None
    assert httpx.get(f"{url[1]}/readyz").status_code == 200
    return url[1]


def _client(data: Path, url: str, processes: ExitStack) -> Client:
    """An administrator of the project alpha."""
    grant_admin(data, "alpha", "tester")
    return processes.enter_context(Client.with_token(url, token(data, "tester"), "alpha"))
