"""The commands for operators, as they are typed: what they print, what they leave behind, and how they end."""

import json
import os
import shutil
import socket
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.e2e import images
from tests.e2e.client import Client, Refused
from tests.e2e.gateway import Gateway, running
from tests.e2e.processes import images_command

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("role", "may_create"), [("reader", False), ("MEMBER", True)])
@pytest.mark.needs_program("qemu-img")
def test_a_token_gives_its_role_in_its_project_and_nothing_else(
    running_gateway: Gateway, tmp_path: Path, role: str, may_create: bool
) -> None:
    disk = images.empty_qcow2(tmp_path / "disk.qcow2", "1M")
    subject = f"some-{role}"
    done = _token(running_gateway.data, subject=subject, project="beta", role=role)

    with Client.with_token(running_gateway.url, done.stdout.strip(), "beta") as client:
        viewer = client.ask("{ viewer { subject projects(first: 9) { nodes { name viewerRole } } } }")["viewer"]
        assert viewer == {
            "subject": subject,
            "projects": {"nodes": [{"name": "beta", "viewerRole": role.upper()}]},
        }
        if may_create:
            client.create(disk)
        else:
            with pytest.raises(Refused) as refused:
                client.create(disk)
            assert refused.value.code == "FORBIDDEN"
        client.project_id = running_gateway.projects["alpha"]
        with pytest.raises(Refused) as refused:
            client.create(disk)
        assert refused.value.code == "NOT_FOUND"


def test_a_token_for_a_project_that_is_not_there_is_refused(running_gateway: Gateway) -> None:
    given = ("--subject", "someone", "--project", "gamma", "--role", "reader")
    _check_one_line(images_command("token", "--data", str(running_gateway.data), *given), "gamma")


def test_the_connection_file_is_for_its_owner_alone_and_says_where_to_go(running_gateway: Gateway) -> None:
    path = running_gateway.data / "connection.json"
    content = json.loads(path.read_text())

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((running_gateway.data / "secret").stat().st_mode) == 0o600
    assert set(content) == {"url", "graphql", "token", "project", "projects"}
    assert content["url"] == f"http://127.0.0.1:{running_gateway.port}"
    assert content["graphql"] == f"{content['url']}/graphql"
    assert [project["name"] for project in content["projects"]] == ["alpha", "beta"]
    with Client(content["url"], content["token"], content["projects"][0]["id"]) as client:
        assert client.image_ids() == []
    assert content["token"] not in running_gateway.log.read_text()


def test_the_schema_that_is_printed_is_the_one_in_the_tree() -> None:
    done = images_command("schema")

    assert done.returncode == 0
    assert done.stdout == (ROOT / "schema.graphql").read_text()


def test_the_doctor_is_content_with_a_machine_that_has_everything(tmp_path: Path) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("this machine lacks qemu-img: apt-get install qemu-utils")
    done = images_command("doctor", "--json", "--data", str(tmp_path / "data"))

    assert done.returncode == 0, done.stdout
    assert all(finding["ok"] for finding in json.loads(done.stdout) if finding["needed"])
    assert not (tmp_path / "data").exists()


def test_the_doctor_names_what_is_missing_and_how_to_install_it(tmp_path: Path) -> None:
    bare = {"PATH": str(tmp_path)}
    as_json = images_command("doctor", "--json", "--data", str(tmp_path), env=bare)
    for_people = images_command("doctor", "--data", str(tmp_path), env=bare)

    assert (as_json.returncode, for_people.returncode) == (1, 1)
    missing = {finding["name"]: finding for finding in json.loads(as_json.stdout) if not finding["ok"]}
    assert missing["qemu-img"]["needed"]
    assert "qemu-utils" in missing["qemu-img"]["remedy"]
    assert "qemu-utils" in for_people.stdout


def test_migrating_is_harmless_as_often_as_it_is_done(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    first = images_command("migrate", "--data", str(data))
    tables = _tables(data)
    second = images_command("migrate", "--data", str(data))

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert {"image", "upload", "job", "event"} <= tables.keys()
    assert _tables(data) == tables


def test_an_operator_says_that_a_database_was_restored(tmp_path: Path) -> None:
    data = tmp_path / "data"
    images_command("migrate", "--data", str(data))
    before = _epoch(data)

    done = images_command("migrate", "--restored", "--data", str(data))

    assert done.returncode == 0, done.stderr
    assert "cursors from before the restore require a resync" in done.stdout
    (key, epoch), (_, new_epoch) = before, _epoch(data)
    assert _epoch(data)[0] == key
    assert new_epoch != epoch


def _epoch(data: Path) -> tuple[str, str]:
    with closing(sqlite3.connect(data / "images.db")) as database:
        key, epoch = database.execute("SELECT key, epoch FROM feed_epoch").fetchone()
    return key, epoch


def test_a_folder_keeps_its_projects_and_its_secret_when_the_gateway_starts_again(tmp_path: Path) -> None:
    with running(tmp_path / "data") as gateway:
        before = gateway
    with running(tmp_path / "data") as gateway:
        assert gateway.projects == before.projects
        with Client(gateway.url, before.token, before.projects["alpha"]) as client:
            assert client.image_ids() == []


def test_a_secret_that_is_too_short_ends_in_one_line(tmp_path: Path) -> None:
    done = images_command("up", "--data", str(tmp_path / "data"), env={"IMAGES_SECRET": "short"})

    _check_one_line(done, "IMAGES_SECRET")
    assert not (tmp_path / "data").exists()


def test_a_port_in_use_ends_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = images_command("up", "--data", str(tmp_path / "data"), "--port", port)

    _check_one_line(done, port)


@pytest.mark.parametrize(
    "command",
    [("up",), ("migrate",), ("token", "--subject", "someone", "--project", "alpha", "--role", "reader")],
    ids=lambda command: command[0],
)
def test_a_data_folder_that_is_a_file_ends_in_one_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    data = tmp_path / "data"
    data.write_text("not a folder")

    _check_one_line(images_command(*command, "--data", str(data)), str(data))
    assert data.read_text() == "not a folder"


def test_a_data_folder_that_is_not_writable_ends_in_one_line(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    try:
        _check_one_line(images_command("up", "--data", str(tmp_path)), str(tmp_path))
    finally:
        tmp_path.chmod(0o700)


def test_a_database_that_is_none_ends_in_one_line(tmp_path: Path) -> None:
    database = tmp_path / "images.db"
    database.write_text("not a database, but long enough that it might be one" * 100)

    _check_one_line(images_command("up", "--data", str(tmp_path), "--port", "0"), str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [("IMAGES_PORT", "70000"), ("IMAGES_LEASE_SECONDS", "soon")],
)
def test_a_setting_that_makes_no_sense_is_named(tmp_path: Path, name: str, value: str) -> None:
    _check_one_line(images_command("up", "--data", str(tmp_path), env={name: value}), name)


def _token(data: Path, **given: str) -> "CompletedProcess[str]":
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    done = images_command("token", "--data", str(data), *options)
    assert done.returncode == 0, done.stderr
    return done


def _check_one_line(done: "CompletedProcess[str]", named: str) -> None:
    """A command that can't work says so in one line that names the cause, and ends with 2."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("images: ")
    assert named in line


def _tables(data: Path) -> dict[str, str]:
    """The tables of the database, and what made them."""
    with closing(sqlite3.connect(data / "images.db")) as database:
        return dict(database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall())
