"""The data folder: closed to other users, whatever it was before, and held by one `images up`."""

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.commands.data_folder import locked_data_folder, make_folders
from app.errors import SettingsError
from app.settings import Settings
from tests.e2e.client import Client
from tests.e2e.gateway import Gateway, running, start
from tests.e2e.processes import images_command


def open_to_others(folder: Path) -> dict[str, str]:
    """What group or others may do something with that they can reach, with its mode."""
    found: dict[str, str] = {}
    reachable = [folder]
    while reachable:
        path = reachable.pop()
        mode = path.lstat().st_mode
        if mode & 0o077:
            found[str(path.relative_to(folder.parent))] = oct(stat.S_IMODE(mode))
            if stat.S_ISDIR(mode):
                reachable += path.iterdir()
    return found


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """The umask of a login shell: what is created without care can be read by everybody."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
@pytest.mark.needs_program("qemu-img")
def test_nothing_that_a_gateway_keeps_is_open_to_other_users(tmp_path: Path) -> None:
    store = tmp_path / "elsewhere"
    disk = tmp_path / "disk.raw"
    disk.write_bytes(os.urandom(1 << 20))

    with running(tmp_path / "data", {"IMAGES_OBJECT_STORE": store.as_uri()}) as gateway:
        with Client(gateway.url, gateway.token, gateway.projects["alpha"]) as client:
            client.check_holds(client.upload(disk), disk, "raw", tmp_path)
        made = {path.name for path in gateway.data.iterdir()}
        assert {"images.db", "images.db-wal", "images.db-shm", "secret", "connection.json"} <= made
        for folder in (gateway.data, store):
            assert open_to_others(folder) == {}
            assert [path for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077] == []


@pytest.mark.usefixtures("usual_umask")
def test_what_an_earlier_version_left_open_is_closed_at_the_start(tmp_path: Path) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    with running(data, {"IMAGES_OBJECT_STORE": store.as_uri()}):
        pass
    for folder in (data, store):
        folder.chmod(0o777)
        for path in folder.rglob("*"):
            path.chmod(0o777 if path.is_dir() else 0o666)

    with running(data, {"IMAGES_OBJECT_STORE": store.as_uri()}):
        assert open_to_others(data) == open_to_others(store) == {}
        assert [path for path in data.iterdir() if path.stat().st_mode & 0o077] == []


def test_a_link_that_somebody_laid_into_an_open_folder_is_not_followed(tmp_path: Path) -> None:
    data, target = tmp_path / "data", tmp_path / "target"
    data.mkdir()
    target.touch(0o644)
    (data / "connection.json").symlink_to(target)

    make_folders(Settings(data=data), always=True)

    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


@pytest.mark.parametrize("setting", ["data", "object_store"])
def test_a_folder_that_holds_other_files_is_left_alone(tmp_path: Path, setting: str) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(0o755)
    (shared / "index.html").touch()
    given = {"data": shared} if setting == "data" else {"data": tmp_path / "data", "object_store": shared.as_uri()}

    with pytest.raises(SettingsError, match="contains other files; choose an empty folder"):
        make_folders(Settings(**given), always=True)

    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert [path.name for path in shared.iterdir()] == ["index.html"]


def test_a_folder_that_all_users_share_is_left_alone(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)

    with pytest.raises(SettingsError, match="all users share it"):
        make_folders(Settings(data=shared), always=True)

    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777


@pytest.mark.parametrize("left", ["lost+found", ".snapshots"])
def test_a_new_file_system_is_as_good_as_an_empty_folder(tmp_path: Path, left: str) -> None:
    (tmp_path / "data" / left).mkdir(parents=True)

    make_folders(Settings(data=tmp_path / "data"), always=True)

    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_a_second_up_on_a_folder_is_refused_and_changes_nothing(running_gateway: Gateway) -> None:
    data = running_gateway.data
    before = (data / "connection.json").read_bytes()

    done = images_command("up", "--data", str(data), "--port", "0")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"images: another `images up` (process {running_gateway.process.pid}) is running on {data}; "
        "stop it, choose another folder with --data, or run `images serve` in addition to it\n"
    )
    assert (data / "connection.json").read_bytes() == before
    assert running_gateway.post("{ viewer { subject } }")


def test_the_lock_goes_with_a_process_that_is_killed(tmp_path: Path) -> None:
    killed = start(tmp_path / "data")
    killed.kill()

    with running(tmp_path / "data") as gateway:
        assert json.loads((gateway.data / "connection.json").read_text())["url"] == gateway.url


def test_a_program_that_outlives_its_gateway_does_not_keep_the_lock(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data")
    make_folders(settings, always=True)
    with locked_data_folder(settings):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)

    try:
        with locked_data_folder(settings):
            pass
        with (
            locked_data_folder(settings),
            pytest.raises(SettingsError, match=f"process {os.getpid()}"),
            locked_data_folder(settings),
        ):
            pass
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(30)
