"""The users' commands against a gateway that runs: real disk images, real exit codes."""

import gzip
import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.commands.tokens import ADMIN
from tests.e2e.cli import SECONDS, Cli, Ended, MakeCli, clis, ended
from tests.e2e.client import Client
from tests.e2e.data_folders import create_organization
from tests.e2e.gate import Gate
from tests.e2e.gateway import IMAGES, Gateway, clean_environment, running, start
from tests.support.changed_files import Change, copied_over, replaced, rewritten

pytestmark = pytest.mark.needs_program("qemu-img")

MIB = 1024 * 1024


@pytest.fixture
def make_cli(tmp_path: Path) -> Iterator[MakeCli]:
    with clis(tmp_path) as make:
        yield make


@pytest.fixture
def cli(running_gateway: Gateway, make_cli: MakeCli) -> Cli:
    return make_cli(running_gateway.data / "connection.json")


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One disk of 12 MiB, 8 of them filled, in several formats."""
    folder = tmp_path_factory.mktemp("disks")
    raw = folder / "disk.raw"
    raw.write_bytes(os.urandom(8 * MIB))
    os.truncate(raw, 12 * MIB)
    for ending, options in {
        "qcow2": ("-O", "qcow2"),
        "vmdk": ("-O", "vmdk"),
        "vhd": ("-O", "vpc", "-o", "subformat=dynamic"),
        "vhdx": ("-O", "vhdx"),
    }.items():
        command = ["qemu-img", "convert", "-f", "raw", *options, str(raw), str(folder / f"disk.{ending}")]
        subprocess.run(command, check=True, timeout=SECONDS)
    return folder


def assert_same_disk(one: Path, other: Path) -> None:
    """The first may be padded at its end, as VHD's geometry wants it; its data has to be the same."""
    command = ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(one), str(other)]
    compared = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert compared.returncode == 0, compared.stdout + compared.stderr


def received(client: Client, image_id: str) -> list[int]:
    """The numbers of the parts that have arrived."""
    document = """query Q($id: ID!) { node(id: $id) { ... on Image { upload {
        parts(status: RECEIVED, first: 100) { nodes { number } } } } } }"""
    return [part["number"] for part in client.ask(document, id=image_id)["node"]["upload"]["parts"]["nodes"]]


def test_an_upload_says_what_its_owner_should_know_of_the_image(cli: Cli, disks: Path, tmp_path: Path) -> None:
    image = tmp_path / "snapshot.qcow2"
    image.write_bytes((disks / "disk.qcow2").read_bytes())
    subprocess.run(["qemu-img", "snapshot", "-c", "before", str(image)], check=True, timeout=SECONDS)
    uploaded = cli("upload", image, "--name", "with a snapshot")
    assert uploaded.code == 0
    assert "warning: 1 internal snapshot was dropped" in " ".join(uploaded.err.split())


@pytest.mark.parametrize("ending", ["qcow2", "vmdk", "raw", "vhd", "vhdx"])
def test_a_file_becomes_an_active_image_that_holds_the_same_disk(cli: Cli, disks: Path, ending: str) -> None:
    uploaded = cli("upload", disks / f"disk.{ending}", "--name", f"whole {ending}", "--checksum", "--json")
    assert (uploaded.code, uploaded.err) == (0, "")
    assert uploaded.json["status"] == "ACTIVE"
    assert uploaded.json["source"]["detectedFormat"] == ending.upper()

    downloaded = cli("download", uploaded.json["id"], "-o", "got.qcow2")
    assert downloaded.code == 0, downloaded.err
    assert_same_disk(cli.folder / "got.qcow2", disks / "disk.raw")


def test_what_is_said_about_an_image_is_shown_and_found(cli: Cli, disks: Path) -> None:
    uploaded = cli(
        *("upload", disks / "disk.qcow2", "--name", "Web Ünïque", "--os", "Ubuntu", "--os-version", "24.04"),
        *("--arch", "aarch64", "--label", "team=web", "--label", "tier=1"),
    )
    assert uploaded.code == 0, uploaded.err
    assert uploaded.out.startswith("Web Ünïque is ACTIVE: img_")
    assert "uploading disk.qcow2" in uploaded.err
    image_id = uploaded.out.split()[-1]

    shown = cli("show", "web ünïque", "--json").json
    assert shown["id"] == image_id
    assert shown["labels"] == [{"key": "team", "value": "web"}, {"key": "tier", "value": "1"}]
    assert shown["architecture"] == "AARCH64"
    assert "Ubuntu 24.04" in cli("show", image_id).out

    found = cli("list", "--name-contains", "ÜNÏ", "--os", "ubuntu", "--status", "active", "--type", "custom", "--json")
    assert [image["id"] for image in found.json] == [image_id]
    assert cli("list", "--name-contains", "nothing-like-it", "--json").json == []
    assert image_id in cli("list").out


def test_a_list_is_sorted_and_cut_as_asked_for(cli: Cli, running_gateway: Gateway, disks: Path) -> None:
    with Client.of(running_gateway) as client:
        for name in ("sort b", "sort a", "sort c"):
            client.create(disks / "disk.qcow2", name=name)

    def names(*arguments: str) -> list[str]:
        return [image["name"] for image in cli("list", "--name-contains", "sort ", *arguments, "--json").json]

    assert names("--order", "name") == ["sort a", "sort b", "sort c"]
    assert names("--order", "name", "--desc", "--limit", "2") == ["sort c", "sort b"]
    assert names() == ["sort c", "sort a", "sort b"]


def test_a_file_that_is_refused_ends_with_1_and_says_why(cli: Cli, tmp_path: Path) -> None:
    bad = tmp_path / "bad.vmdk"
    bad.write_bytes(os.urandom(40 * MIB))

    people = cli("upload", bad)
    assert people.code == 1
    assert people.out == ""
    assert "VMDK" in people.err

    programs = cli("upload", bad, "--json")
    assert (programs.code, programs.err) == (1, "")
    error = programs.json["error"]
    assert error["code"] == "FORMAT_MISMATCH"
    assert error["hint"]
    assert error["image"]["status"] == "ERROR"
    shown = cli("show", error["image"]["id"])
    assert shown.code == 0
    assert error["message"] in shown.out


def test_each_kind_of_failure_has_its_exit_code(cli: Cli, running_gateway: Gateway, disks: Path) -> None:
    here = {"IMAGES_URL": running_gateway.url, "IMAGES_TOKEN": running_gateway.token}
    unmarked = disks / "unmarked"
    unmarked.write_bytes(bytes(512))

    def failed(*arguments: str | Path, **env: str) -> tuple[int, str]:
        end = cli(*arguments, "--json", env=env)
        return end.code, end.json["error"]["code"]

    assert failed("list", IMAGES_CONNECTION="") == (2, "CONFIGURATION")
    assert failed("list", IMAGES_URL=running_gateway.url) == (2, "CONFIGURATION")
    assert failed("list", **(here | {"IMAGES_PROJECT": ""})) == (2, "CONFIGURATION")
    assert failed("upload", "missing.vmdk") == (2, "FILE")
    assert failed("upload", unmarked) == (2, "UNSUPPORTED_FORMAT")
    assert failed("upload", disks / "disk.qcow2", "--sha256", "x") == (3, "INVALID")
    assert failed("list", **(here | {"IMAGES_TOKEN": "forged"})) == (4, "UNAUTHENTICATED")
    assert failed("list", **(here | {"IMAGES_URL": "http://127.0.0.1:1"})) == (5, "NOT_REACHABLE")
    assert failed("show", "no such image") == (6, "NOT_FOUND")
    assert failed("list", IMAGES_PROJECT="gamma") == (6, "NOT_FOUND")
    assert cli("list", "--no-such-option").code == 2
    several = cli("list", env=here | {"IMAGES_PROJECT": ""})
    assert "alpha, beta" in several.err
    assert cli("list", env={"IMAGES_PROJECT": ""}).code == 0, "what `images up` wrote names a project"


def test_an_image_is_deleted_only_when_that_was_said(cli: Cli, disks: Path) -> None:
    image_id = cli("upload", disks / "disk.qcow2", "--name", "to go", "--json").json["id"]

    unsaid = cli("delete", image_id)
    assert unsaid.code == 2
    assert "--yes" in unsaid.err
    assert cli("show", image_id).code == 0

    assert cli("delete", "to go", "--yes", "--json").json["deletedImageId"] == image_id
    assert cli("show", image_id).code == 6
    assert cli("delete", image_id, "--yes").code == 6


def test_watching_prints_what_happens_and_ends_with_the_image(cli: Cli, running_gateway: Gateway, disks: Path) -> None:
    cursor = running_gateway.post("{ eventCursor }")["eventCursor"]
    image_id = cli("upload", disks / "disk.vmdk", "--name", "watched", "--no-wait", "--json").json["id"]

    watched = cli("watch", image_id, "--after", cursor, "--until-settled", "--json")

    assert watched.code == 0, watched.err
    events = [json.loads(line) for line in watched.out.splitlines()]
    assert {event["imageId"] for event in events} == {image_id}
    assert events[0]["__typename"] == "ImageCreated"
    assert moves(events, image_id) == ["QUEUED SAVING", "SAVING ACTIVE"]
    # Once more, when all of it is over.
    people = cli("watch", "watched", "--after", cursor, "--until-settled")
    assert people.code == 0
    assert "watched: QUEUED -> SAVING" in people.out


def moves(events: list[dict[str, Any]], image_id: str) -> list[str]:
    """How the status of an image moved."""
    changes = [event for event in events if event["__typename"] == "ImageStatusChanged"]
    return [f"{event['from']} {event['to']}" for event in changes if event["imageId"] == image_id]


def test_watching_a_failed_image_ends_with_1_and_names_what_it_cannot_watch(cli: Cli, tmp_path: Path) -> None:
    bad = tmp_path / "bad.vhdx"
    bad.write_bytes(os.urandom(MIB))
    failed = cli("upload", bad, "--json").json["error"]["image"]["id"]

    assert cli("watch", failed, "--until-settled").code == 1
    assert cli("watch", "--until-settled").code == 2
    assert cli("watch", "no such image").code == 6
    assert cli("watch", "--after", "no cursor").code == 3


def test_a_watcher_sees_what_happens_at_once_and_is_told_how_to_go_on(
    cli: Cli, running_gateway: Gateway, disks: Path
) -> None:
    cursor = running_gateway.post("{ eventCursor }")["eventCursor"]
    watcher = cli.start("watch", "--after", cursor, "--no-progress", "--json")
    image_id = cli("upload", disks / "disk.qcow2", "--name", "seen", "--no-wait", "--json").json["id"]

    events: list[dict[str, Any]] = []
    while "SAVING ACTIVE" not in moves(events, image_id):
        events.append(next_event(watcher))
    watcher.send_signal(signal.SIGINT)
    end = ended(watcher)

    assert events[0]["__typename"] == "ImageCreated"
    assert {event["imageId"] for event in events} == {image_id}
    assert end.code == 130
    # The checksum may have been announced meanwhile.
    error = json.loads(end.out.splitlines()[-1])["error"]
    assert error["code"] == "INTERRUPTED"
    assert error["cursor"] in error["hint"]


def next_event(watcher: "subprocess.Popen[str]") -> dict[str, Any]:
    assert watcher.stdout is not None
    line = watcher.stdout.readline()
    assert line, watcher.stderr and watcher.stderr.read()
    event: dict[str, Any] = json.loads(line)
    return event


# ------------------------------------------------------------ interruptions

SMALL_PARTS = {"IMAGES_MINIMUM_PART_SIZE": str(MIB)}


@pytest.fixture(scope="module")
def small_parts(module_folder: Path) -> Iterator[Gateway]:
    """A gateway that takes parts of 1 MiB: the disk comes in eight and a bit."""
    with running(module_folder / "small-parts", SMALL_PARTS) as gateway:
        yield gateway


@pytest.fixture
def empty_project(small_parts: Gateway, tmp_path: Path) -> str:
    """The name of a project of that gateway that no other test puts images into."""
    name = tmp_path.name
    create_organization(small_parts.data, "demo", [name], admin=ADMIN)
    return name


@pytest.fixture
def client(small_parts: Gateway, empty_project: str) -> Iterator[Client]:
    """A client of that project, for what a test need not see the commands do."""
    with Client.with_token(small_parts.url, small_parts.token, empty_project) as client:
        yield client


def first_four(number: int) -> bool:
    return number > 4


def stopped_after_four_parts(
    cli: Cli, client: Client, gate: Gate, disk: Path, stop: Callable[["subprocess.Popen[str]"], None]
) -> Ended:
    """An upload that was stopped after four parts had arrived."""
    gate.hold(first_four)
    uploading = cli.start("upload", disk, "--jobs", "2")
    gate.wait_until_held(2)
    assert sorted(gate.parts) == [1, 2, 3, 4]
    stop(uploading)
    end = ended(uploading)
    (image_id,) = client.image_ids()
    assert received(client, image_id) == [1, 2, 3, 4]
    # Otherwise the bytes of a process that has ended would still arrive.
    gate.release(drop=True)
    return end


def interrupted(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGINT)


def killed(process: "subprocess.Popen[str]") -> None:
    process.kill()


@pytest.mark.parametrize("stop", [killed, interrupted])
def test_an_upload_that_was_cut_off_sends_only_what_is_missing_when_it_is_run_again(
    small_parts: Gateway,
    empty_project: str,
    client: Client,
    make_cli: MakeCli,
    disks: Path,
    tmp_path: Path,
    stop: Callable[["subprocess.Popen[str]"], None],
) -> None:
    with Gate(small_parts.port).open() as gate:
        cli = make_cli(gate.connection_file(small_parts, tmp_path), empty_project)
        end = stopped_after_four_parts(cli, client, gate, disks / "disk.qcow2", stop)
        if stop is interrupted:
            assert end.code == 130
            assert "again" in end.err

        again = cli("upload", disks / "disk.qcow2", "--jobs", "2", "--json")

        assert again.code == 0, again.out
        parts = -(-(disks / "disk.qcow2").stat().st_size // MIB)
        assert sorted(gate.parts) == list(range(5, parts + 1))
        (image,) = cli("list", "--json").json
        assert (image["id"], image["status"]) == (again.json["id"], "ACTIVE")
        assert cli("download", image["id"], "-o", "got.qcow2").code == 0
        assert_same_disk(cli.folder / "got.qcow2", disks / "disk.raw")

        # What is done is not gone on with: the same command makes another image.
        assert cli("upload", disks / "disk.qcow2", "--json").json["id"] != image["id"]


@pytest.mark.parametrize("change", [copied_over, replaced, rewritten])
def test_an_upload_whose_file_has_changed_since_is_aborted_and_sent_anew(
    small_parts: Gateway, empty_project: str, client: Client, make_cli: MakeCli, tmp_path: Path, change: Change
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(os.urandom(6 * MIB))
    with Gate(small_parts.port).open() as gate:
        cli = make_cli(gate.connection_file(small_parts, tmp_path), empty_project)
        stopped_after_four_parts(cli, client, gate, disk, killed)
        (begun,) = client.image_ids()
        change(disk, os.urandom(6 * MIB))

        again = cli("upload", disk, "--jobs", "2")

        assert again.code == 0, again.err
        assert f"has changed since the upload of disk ({begun}) began. That upload was aborted" in again.err
        assert sorted(gate.parts) == [1, 2, 3, 4, 5, 6]
        images = {image["id"]: image for image in cli("list", "--json").json}
        assert images.pop(begun)["failure"]["code"] == "UPLOAD_ABORTED"
        (made,) = images
        assert cli("download", made, "-o", "got.qcow2").code == 0
        assert_same_disk(cli.folder / "got.qcow2", disk)


def test_an_upload_that_is_refused_midway_sends_no_more_and_says_why(
    small_parts: Gateway, empty_project: str, client: Client, make_cli: MakeCli, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.qcow2"
    disk.write_bytes(gzip.compress(os.urandom(24 * MIB)))
    with Gate(small_parts.port).open() as gate:
        cli = make_cli(gate.connection_file(small_parts, tmp_path), empty_project)
        gate.hold(lambda number: number > 1)
        uploading = cli.start("upload", disk, "--jobs", "2")
        gate.wait_until_held(2)
        (image_id,) = client.image_ids()
        failure = client.settled(image_id)["failure"]
        gate.release()

        end = ended(uploading)

    assert (end.code, end.out) == (1, "")
    assert failure["code"] == "FORMAT_MISMATCH"
    assert failure["message"] in end.err
    assert failure["hint"] in end.err
    assert set(gate.parts) <= {2, 3}


def test_a_large_part_that_is_cut_off_when_its_upload_is_refused_says_why(make_cli: MakeCli, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    disk.write_bytes(gzip.compress(os.urandom(MIB)))
    os.truncate(disk, 1024 * MIB)
    with running(tmp_path / "data", {"IMAGES_MINIMUM_PART_SIZE": str(512 * MIB)}) as gateway:
        end = make_cli(gateway.data / "connection.json")("upload", disk, "--json")

    assert (end.code, end.json["error"]["code"]) == (1, "FORMAT_MISMATCH")


def test_a_second_process_does_not_send_the_same_file_at_the_same_time(
    small_parts: Gateway, empty_project: str, make_cli: MakeCli, disks: Path, tmp_path: Path
) -> None:
    with Gate(small_parts.port).open() as gate:
        cli = make_cli(gate.connection_file(small_parts, tmp_path), empty_project)
        gate.hold(first_four)
        first = cli.start("upload", disks / "disk.vmdk", "--json")
        gate.wait_until_held(1)

        second = cli("upload", disks / "disk.vmdk", "--json")
        assert (second.code, second.json["error"]["code"]) == (2, "UPLOAD_RUNNING")

        gate.release()
        assert ended(first).code == 0
        assert len(cli("list", "--json").json) == 1


def test_an_upload_survives_a_gateway_that_is_killed_and_comes_back(
    make_cli: MakeCli, disks: Path, tmp_path: Path
) -> None:
    gateway = start(tmp_path / "data", SMALL_PARTS)
    with Gate(gateway.port).open() as gate:
        cli = make_cli(gate.connection_file(gateway, tmp_path))
        gate.hold(first_four)
        uploading = cli.start("upload", disks / "disk.vmdk", "--json")
        gate.wait_until_held(1)
        gateway.kill()
        gate.release()
        gateway = start(tmp_path / "data", SMALL_PARTS, port=gateway.port)
        try:
            end = ended(uploading)
            assert end.code == 0, end.out
            assert cli("download", end.json["id"], "-o", "got.qcow2").code == 0
            assert_same_disk(cli.folder / "got.qcow2", disks / "disk.raw")
        finally:
            gateway.stop()


def test_a_watcher_misses_nothing_while_the_gateway_is_away(make_cli: MakeCli, disks: Path, tmp_path: Path) -> None:
    gateway = start(tmp_path / "data")
    cli = make_cli(gateway.data / "connection.json")
    watcher = cli.start("watch", "--after", gateway.post("{ eventCursor }")["eventCursor"], "--json")
    first = cli("upload", disks / "disk.qcow2", "--name", "first", "--json").json["id"]
    events = [next_event(watcher)]
    gateway.stop()
    gateway = start(tmp_path / "data", port=gateway.port)
    try:
        second = cli("upload", disks / "disk.qcow2", "--name", "second", "--json").json["id"]
        while "SAVING ACTIVE" not in moves(events, second):
            events.append(next_event(watcher))
    finally:
        gateway.stop()

    for image_id in (first, second):
        assert moves(events, image_id) == ["QUEUED SAVING", "SAVING ACTIVE"]
    stored = [event["cursor"] for event in events if event["__typename"] != "ImageProgressed"]
    assert len(stored) == len(set(stored))


# ------------------------------------------------------------ terminals


def at_a_terminal(cli: Cli, *arguments: str | Path, typed: bytes = b"") -> tuple[int, str]:
    """Exit code of a command that is run at a terminal, and what was to be seen there."""
    master, slave = pty.openpty()
    os.write(master, typed)
    process = subprocess.Popen(
        [IMAGES, *map(str, arguments)],
        cwd=cli.folder,
        env=clean_environment({**cli.env, "TERM": "xterm-256color"}),
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    seen = b""
    try:
        while chunk := os.read(master, 65_536):
            seen += chunk
    except OSError:  # the last one who had the terminal open is gone
        pass
    finally:
        os.close(master)
    return process.wait(SECONDS), seen.decode()


def test_a_bar_grows_at_a_terminal_and_nowhere_else(cli: Cli, disks: Path) -> None:
    code, seen = at_a_terminal(cli, "upload", disks / "disk.vmdk", "--name", "bar")
    assert code == 0
    assert "\x1b[" in seen
    assert "uploading disk.vmdk" in seen
    assert "/8.1 MiB" in seen
    assert "bar is ACTIVE" in seen

    piped = cli("upload", disks / "disk.vmdk", "--name", "no bar")
    assert "\x1b" not in piped.out + piped.err
    forced = cli("list", env={"FORCE_COLOR": "1", "TERM": "xterm-256color"})
    assert "\x1b" not in forced.out + forced.err


def test_deleting_at_a_terminal_asks_first(cli: Cli, disks: Path) -> None:
    image_id = cli("upload", disks / "disk.qcow2", "--name", "asked", "--json").json["id"]

    code, seen = at_a_terminal(cli, "delete", "asked", typed=b"n\n")
    assert (code, "Delete asked" in seen) == (130, True)
    assert cli("show", image_id).code == 0

    code, seen = at_a_terminal(cli, "delete", image_id, typed=b"y\n")
    assert (code, "asked is deleted" in seen) == (0, True)
    assert cli("show", image_id).code == 6


def test_a_reader_that_goes_away_is_told_apart_from_an_image_that_failed(cli: Cli, disks: Path) -> None:
    assert cli("upload", disks / "disk.qcow2", "--name", "unread", "--no-wait").code == 0
    for arguments in (["list"], ["list", "--json"], ["show", "unread"]):
        process = cli.start(*arguments)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(SECONDS) == 141
