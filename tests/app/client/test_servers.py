"""The commands about servers and volumes, as they are typed: what they ask for, and what they print."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from app.client.api.naming import find_image_to_launch
from app.client.api.servers import reached, until_detached
from app.client.errors import ClientError, NotFound, ServerFailed
from app.client.generated.enums import ServerStatus
from app.client.generated.fragments import VolumeFields
from app.client.retrying import RetryPolicy
from tests.support.answers import failed_server, image, page, page_info, server, volume
from tests.support.scripted_server import Answer, Reply, data, events, in_turn, session_with
from tests.support.typed_commands import Run, ran

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ada@example.org"
POLICY = RetryPolicy(20, first_pause=0.001, longest_pause=0.002)
OWN = {"id": "prj_1", "name": "alpha"}


def images(*nodes: dict[str, Any]) -> Reply:
    return data(images={"nodes": list(nodes), "pageInfo": page_info()})


def debian(image_id: str = "img_1", **fields: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"name": "Debian", "project": OWN, "minBootDiskGib": 2}
    return image(image_id, **(known | fields))


def servers(*nodes: dict[str, Any]) -> Reply:
    return data(project={"servers": page(*nodes)})


def volumes(*nodes: dict[str, Any]) -> Reply:
    return data(project={"volumes": page(*nodes)})


def node(fields: dict[str, Any] | None) -> Reply:
    return data(node=fields)


def settling(*states: dict[str, Any] | None, complete: bool = True) -> Reply:
    return events(*({"server": state} for state in states), complete=complete)


def changed(mutation: str, **fields: Any) -> Reply:
    return data(**{mutation: {**fields, "userErrors": []}})


def refused(mutation: str, thing: str, code: str, field: str, message: str, hint: str | None = "Do it.") -> Reply:
    mistake = {"code": code, "message": message, "hint": hint, "field": [field]}
    return data(**{mutation: {thing: None, "userErrors": [mistake]}})


def launched(*arguments: str, **answers: list[Reply]) -> Run:
    given = {
        "Images": [images(debian())],
        "LaunchServer": [changed("launchServer", server=server(status="STARTING"))],
        "ServerSettling": [settling(server(status="STARTING"), server())],
    }
    return ran("launch", "debian", "--name", "web", *arguments, **(given | answers))


# ------------------------------------------------------------ launching


def test_a_server_is_launched_as_the_options_say_and_waited_for(tmp_path: Path) -> None:
    keys, script = tmp_path / "id.pub", tmp_path / "user-data"
    keys.write_text(f"# mine\n{KEY}\n\n{KEY} two\n")
    script.write_text("#!/bin/sh\n")

    run = launched(
        *("--boot-disk", "7", "--vcpus", "2", "--memory", "512", "--ssh-key", str(keys), "--user-data", str(script)),
        *("--volume", "vol_2", "--volume", "Logs", "--firmware", "uefi", "--force", "--idempotency-key", "k"),
        Volume=[node(volume("vol_2"))],
        Volumes=[volumes(volume("vol_3", name="logs"), volume("vol_4", name="logs", bootable=True))],
    )

    assert (run.code, run.out) == (0, "web is RUNNING: srv_1\n")
    assert run.err == "web is STARTING: srv_1\n"
    assert run.inputs == [
        {
            "projectId": "prj_1",
            "imageId": "img_1",
            "name": "web",
            "bootDiskGib": 7,
            "vcpus": 2,
            "memoryMib": 512,
            "sshKeys": [KEY, f"{KEY} two"],
            "userData": "#!/bin/sh\n",
            "dataVolumeIds": ["vol_2", "vol_3"],
            "firmware": "UEFI",
            "force": True,
            "idempotencyKey": "k",
        }
    ]


def test_an_image_that_will_not_boot_is_launched_with_force() -> None:
    run = launched("--force", "--firmware", "uefi", "--no-wait")

    assert (run.inputs[0]["force"], run.inputs[0]["firmware"]) == (True, "UEFI")


def test_a_launch_that_is_not_waited_for_ends_while_the_server_starts() -> None:
    run = launched("--no-wait", "--json", ServerSettling=[])

    assert (run.code, run.err) == (0, "")
    assert (run.json["id"], run.json["status"]) == ("srv_1", "STARTING")


def test_a_launch_whose_answer_was_lost_is_repeated_with_the_same_key() -> None:
    run = launched(LaunchServer=[Reply(cut=True), changed("launchServer", server=server(status="STARTING"))])

    first, second = run.inputs
    assert run.code == 0
    assert first == second
    assert len(first["idempotencyKey"]) == 32


@pytest.mark.parametrize(
    "content",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        f"{KEY}\nPuTTY-User-Key-File-3: ssh-ed25519\n",
        "password=secret\n",
        "\n",
        b"\xff\xfe",
        "ssh-rsa " + "A" * (64 << 10),
    ],
)
def test_only_public_keys_leave_the_machine(content: str | bytes, tmp_path: Path) -> None:
    file = tmp_path / "id"
    file.write_bytes(content.encode() if isinstance(content, str) else content)

    run = launched("--ssh-key", str(file), "--json")

    assert (run.code, run.json["error"]["code"], run.asked) == (2, "FILE", [])


def test_a_server_that_fails_to_start_ends_the_command_with_1() -> None:
    run = launched("--json", ServerSettling=[settling(failed_server("IMAGE_UNAVAILABLE"))])

    error = run.json["error"]
    assert (run.code, error["code"], error["hint"]) == (1, "IMAGE_UNAVAILABLE", "Wait.")
    assert error["server"]["id"] == "srv_1"


@pytest.mark.parametrize(
    ("code", "field", "message", "hint", "shown"),
    [
        (
            *("BOOT_DISK_TOO_SMALL", "bootDiskGib", "The image needs at least 2 GiB."),
            *("Set `bootDiskGib` to 2 or more, or leave it out.", "Set `--boot-disk` to 2 or more, or leave it out."),
        ),
        ("INVALID", "vcpus", "vcpus is 999; it must be from 1 to 256.", None, "--vcpus is 999"),
        ("QUOTA_EXCEEDED", "projectId", "The project has 2 of 2 servers.", "Delete servers.", "`images quota`"),
        ("NO_HYPERVISOR", "projectId", "No host runs servers here.", "Ask.", "`images host`"),
        ("NO_HYPERVISOR", "memoryMib", "No host has room.", "Request a smaller one.", "less --memory"),
        ("NO_HYPERVISOR", "dataVolumeIds", "No host has all volumes.", "Use volumes of one host.", "of one host"),
        ("WILL_NOT_BOOT", "imageId", "It will not boot.", "`force: true` launches it anyway.", "`--force` launches it"),
        (
            *("WILL_NOT_BOOT", "firmware", "It will not boot with UEFI."),
            *("Leave out `firmware`, or set it to BIOS.", "Leave out `--firmware`, or set it to BIOS."),
        ),
        ("IN_USE", "dataVolumeIds", "The volume is attached.", "Call deleteServer first.", "`images delete-server`"),
    ],
)
def test_a_refusal_says_what_to_do_in_terms_of_commands_and_options(
    code: str, field: str, message: str, hint: str | None, shown: str
) -> None:
    run = launched(LaunchServer=[refused("launchServer", "server", code, field, message, hint)])

    assert run.code == 3
    assert shown in run.err
    assert not re.search(rf"(?<!-){field}", run.err)


# ------------------------------------------------------------ names


async def found(wanted: str, *nodes: dict[str, Any]) -> tuple[str, list[str]]:
    """The id of the image that a name stands for, and what was searched for."""
    async with session_with(in_turn(images(*nodes))) as (at, gateway):
        image_id = (await find_image_to_launch(at.api, wanted, "prj_1")).id
        return image_id, [asked.variables["filter"]["nameContains"] for asked in gateway.asked]


ELSEWHERE = {"id": "prj_2", "name": "beta"}


@pytest.mark.parametrize(
    "nodes",
    [
        [debian("img_1")],
        [debian("img_2", name="debian 12"), debian("img_1", name="DEBIAN")],
        [debian("img_2", status="ERROR"), debian("img_1"), debian("img_3", status="SAVING")],
        [debian("img_2", project=None, visibility="PUBLIC"), debian("img_1")],
        [debian("img_2", project=None, visibility="PUBLIC"), debian("img_1", project=ELSEWHERE, visibility="SHARED")],
        # The gateway refuses it, and says why.
        [debian("img_1", status="SAVING"), debian("img_2", project=ELSEWHERE, visibility="SHARED")],
    ],
)
def test_a_name_stands_for_the_only_image_that_can_be_meant(nodes: list[dict[str, Any]]) -> None:
    assert asyncio.run(found(" debian", *nodes)) == ("img_1", ["debian"])


def test_a_long_name_is_searched_for_by_its_beginning() -> None:
    name = "Ǆ" * 70

    image_id, searched = asyncio.run(found(name, debian("img_2", name=name + "x"), debian("img_1", name=name)))

    assert (image_id, searched) == ("img_1", ["dž" * 32])


def test_no_image_is_guessed_where_several_have_the_name() -> None:
    several = images(debian("img_1"), debian("img_2"))

    programs = launched("--json", Images=[several])
    people = launched(Images=[several])

    assert (programs.code, programs.json["error"]["code"]) == (3, "AMBIGUOUS")
    assert programs.json["error"]["ids"] == ["img_1", "img_2"]
    assert programs.inputs == []
    assert "2 images are called debian." in people.err
    assert "Use one of these ids: img_1, img_2" in people.err


@pytest.mark.parametrize("wanted", ["nothing", "", " "])
def test_a_name_of_no_image_is_not_found(wanted: str) -> None:
    with pytest.raises(NotFound):
        asyncio.run(found(wanted, debian()))


def test_an_id_is_looked_up_first_and_a_name_may_look_like_one() -> None:
    by_id = ran(
        "stop", "srv_1", "--no-wait", Server=[node(server())], StopServer=[changed("stopServer", server=server())]
    )
    by_name = ran("stop", "srv_9", "--json", Server=[node(None)], Servers=[servers(server(name="srv_8"))])

    assert by_id.inputs == [{"serverId": "srv_1"}]
    assert (by_name.code, by_name.json["error"]["code"]) == (6, "NOT_FOUND")


@pytest.mark.parametrize("name", ["start", "stop", "delete-server", "servers"])
def test_no_server_is_guessed_where_several_have_the_name(name: str) -> None:
    yes = ["--yes"] if name == "delete-server" else []
    run = ran(
        name, "WEB", "--json", *yes, Servers=[servers(server("srv_1"), server("srv_2"), server("srv_3", name="x"))]
    )

    assert (run.code, run.json["error"]["code"], run.json["error"]["ids"]) == (3, "AMBIGUOUS", ["srv_1", "srv_2"])
    assert run.inputs == []


# ------------------------------------------------------------ waiting


async def awaited(wanted: ServerStatus, answer: Answer) -> str:
    async with session_with(answer) as (at, _gateway):
        return (await reached(at.api, "srv_1", wanted, POLICY, poll_seconds=0)).status


STARTING = server(status="STARTING")


def test_a_server_is_waited_for_across_streams_that_break() -> None:
    answers = in_turn(settling(STARTING, complete=False), Reply(b"", 503), Reply(cut=True), settling(server()))

    assert asyncio.run(awaited(ServerStatus.RUNNING, answers)) == "RUNNING"


def test_where_no_stream_gets_through_the_server_is_asked_for() -> None:
    answers = in_turn(Reply(b"", 406), node(STARTING), Reply(b"", 503), node(server()))

    assert asyncio.run(awaited(ServerStatus.RUNNING, answers)) == "RUNNING"


@pytest.mark.parametrize(
    ("end", "error", "code"),
    [
        (failed_server(), ServerFailed, "HOST_UNAVAILABLE"),
        (server(status="STOPPED", desiredStatus="STOPPED"), ServerFailed, "STOPPED"),
        (None, NotFound, "NOT_FOUND"),
    ],
)
@pytest.mark.parametrize("streaming", [True, False])
def test_a_server_that_will_not_run_is_not_waited_for(
    end: dict[str, Any] | None, error: type[ClientError], code: str, streaming: bool
) -> None:
    answers = [settling(STARTING, end)] if streaming else [Reply(b"", 406), node(STARTING), node(end)]

    with pytest.raises(error) as caught:
        asyncio.run(awaited(ServerStatus.RUNNING, in_turn(*answers)))

    assert caught.value.code == code


def test_a_deleted_server_is_waited_for_until_its_volumes_are_released() -> None:
    kept = [VolumeFields.model_validate(volume(one)) for one in ("vol_2", "vol_3")]
    boot = VolumeFields.model_validate(volume("vol_1", bootable=True))

    async def wait() -> list[str]:
        # vol_2 is released at the second look, vol_3 is deleted by the third.
        seen = (volume("vol_2"), volume("vol_3"), volume("vol_2", revision=2), volume("vol_3"), None)
        looks = in_turn(*(node(one) for one in seen))
        async with session_with(looks) as (at, gateway):
            await until_detached(at.api, [boot, *kept], POLICY, poll_seconds=0)
            return [asked.variables["id"] for asked in gateway.asked]

    assert asyncio.run(wait()) == ["vol_2", "vol_3", "vol_2", "vol_3", "vol_3"]


# ------------------------------------------------------------ servers


def test_servers_are_listed_for_people_and_for_programs() -> None:
    pages = [
        data(project={"servers": page(server(), more="c1")}),
        servers(server("srv_2", "STOPPED", name="db", memoryMib=256, image=None, bootVolume=None)),
    ]

    people, programs = ran("servers", Servers=[*pages]), ran("servers", "--json", Servers=[*pages])

    assert [line.split("  ")[0] for line in people.out.splitlines()] == ["NAME", "web", "db"]
    assert "1.0 GiB" in people.out
    assert "256.0 MiB" in people.out
    assert [one["id"] for one in programs.json] == ["srv_1", "srv_2"]
    assert [asked.variables["after"] for asked in programs.asked] == [None, "c1"]


def test_a_server_is_shown_with_its_volumes_and_its_failure() -> None:
    attached = node({"volumes": page(volume("vol_1", bootable=True, name="web"), volume("vol_2"))})
    answers = {"Server": [node(failed_server())], "ServerVolumes": [attached]}

    people = ran("servers", "srv_1", **{name: [*replies] for name, replies in answers.items()})
    programs = ran("servers", "srv_1", "--json", **answers)

    lines = [line.split(maxsplit=1) for line in people.out.splitlines()]
    assert ["failure", "The host is gone."] in lines
    assert ["volume", "data, 5.0 GiB (vol_2)"] in lines
    assert "boot disk    5.0 GiB (vol_1)" in people.out
    assert [one["id"] for one in programs.json["volumes"]] == ["vol_1", "vol_2"]
    assert programs.json["failure"]["code"] == "HOST_UNAVAILABLE"


def test_a_project_without_servers_or_volumes_says_how_to_make_one() -> None:
    assert "images launch" in ran("servers", Servers=[servers()]).err
    assert "images create-volume" in ran("volumes", Volumes=[volumes()]).err


@pytest.mark.parametrize(
    ("name", "mutation", "end"), [("start", "startServer", "RUNNING"), ("stop", "stopServer", "STOPPED")]
)
def test_a_server_is_started_and_stopped_by_its_name(name: str, mutation: str, end: str) -> None:
    operation = mutation[0].upper() + mutation[1:]
    answers = {
        "Servers": [servers(server(name="db"), server("srv_2"))],
        operation: [changed(mutation, server=server("srv_2", "STARTING"))],
        "ServerSettling": [settling(server("srv_2", end, desiredStatus=end))],
    }

    run = ran(name, "Web", **answers)

    assert (run.code, run.out) == (0, f"web is {end}: srv_2\n")
    assert run.inputs == [{"serverId": "srv_2"}]


def test_a_host_without_room_for_a_start_says_what_to_stop() -> None:
    full = refused("startServer", "server", "NO_HYPERVISOR", "serverId", "No host has room.", "Request less.")

    run = ran("start", "srv_1", Server=[node(server(status="STOPPED"))], StartServer=[full])

    assert run.code == 3
    assert "`images stop`" in run.err


def test_a_server_is_deleted_only_when_that_was_said() -> None:
    unsaid = ran("delete-server", "web")
    assert (unsaid.code, unsaid.asked) == (2, [])
    assert "--yes" in unsaid.err

    run = ran(
        *("delete-server", "web", "--yes", "--json"),
        Servers=[servers(server())],
        ServerVolumes=[node({"volumes": page(volume("vol_1", bootable=True), volume("vol_2"))})],
        DeleteServer=[changed("deleteServer", deletedServerId="srv_1", cursor=None)],
        Volume=[node(volume("vol_2", revision=2))],
    )

    assert (run.code, run.json) == (0, {"deletedServerId": "srv_1", "cursor": None})
    assert run.inputs == [{"serverId": "srv_1"}]
    assert run.asked[-1].variables == {"id": "vol_2"}


# ------------------------------------------------------------ volumes


def test_a_volume_is_created_and_listed() -> None:
    made = ran(
        *("create-volume", "data", "--size", "5", "--idempotency-key", "k"),
        CreateVolume=[changed("createVolume", volume=volume())],
    )
    assert (made.code, made.out) == (0, "data has 5.0 GiB: vol_2\n")
    assert made.inputs == [{"projectId": "prj_1", "name": "data", "sizeGib": 5, "idempotencyKey": "k"}]

    used = volume("vol_1", name="web", bootable=True, server={"id": "srv_1", "name": "web"})
    listed = ran("volumes", Volumes=[volumes(used, volume())])
    assert [line.split()[:5] for line in listed.out.splitlines()][1:] == [
        ["web", "5.0", "GiB", "yes", "web"],
        ["data", "5.0", "GiB", "no", "-"],
    ]


def test_a_volume_is_deleted_as_it_was_seen() -> None:
    run = ran(
        *("delete-volume", "data", "--yes"),
        Volumes=[volumes(volume(revision=4))],
        DeleteVolume=[changed("deleteVolume", deletedVolumeId="vol_2", cursor=None)],
    )

    assert (run.code, run.out) == (0, "data is deleted: vol_2\n")
    assert run.inputs == [{"volumeId": "vol_2", "expectedRevision": 4}]


def test_a_volume_in_use_says_which_command_frees_it() -> None:
    hint = "Delete the server with deleteServer first."
    in_use = refused("deleteVolume", "deletedVolumeId", "IN_USE", "volumeId", "It is attached.", hint)

    run = ran("delete-volume", "vol_2", "--yes", Volume=[node(volume())], DeleteVolume=[in_use])

    assert run.code == 3
    assert "Delete the server with `images delete-server` first." in run.err


def test_no_volume_is_guessed_where_several_have_the_name() -> None:
    run = ran("delete-volume", "data", "--yes", Volumes=[volumes(volume("vol_2"), volume("vol_3"))])

    assert run.code == 3
    assert "vol_2, vol_3" in run.err
    assert run.inputs == []
