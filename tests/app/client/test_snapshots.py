"""The commands about snapshots, and about images of servers: what they ask for, and what they print."""

import re
from typing import Any

import pytest

from tests.support.answers import image, page, page_info, server, volume
from tests.support.scripted_server import Reply, data, events
from tests.support.typed_commands import ran


def snapshot(image_id: str = "img_7", status: str = "ACTIVE", **fields: Any) -> dict[str, Any]:
    source = {"serverName": "web", "capturedAt": "2026-01-01T00:00:00Z", "quiet": True, "server": {"id": "srv_1"}}
    known: dict[str, Any] = {"name": "nightly", "type": "SNAPSHOT", "source": source}
    return image(image_id, status, **(known | fields))


def node(fields: dict[str, Any] | None) -> Reply:
    return data(node=fields)


def servers(*nodes: dict[str, Any]) -> Reply:
    return data(project={"servers": page(*nodes)})


def volumes(*nodes: dict[str, Any]) -> Reply:
    return data(project={"volumes": page(*nodes)})


def images(*nodes: dict[str, Any]) -> Reply:
    return data(images={"nodes": list(nodes), "pageInfo": page_info()})


def created(status: str = "SAVING") -> Reply:
    return data(createSnapshot={"snapshot": snapshot(status=status), "userErrors": []})


def settling(*states: dict[str, Any]) -> Reply:
    return events(*({"image": state} for state in states))


FAILED = {
    "code": "SOURCE_UNAVAILABLE",
    "message": "The server stopped.",
    "hint": "Take another one.",
    "retriable": False,
    "occurredAt": "2026-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    ("wanted", "volume_id", "answers"),
    [
        ("srv_1", "vol_1", {"Server": [node(server())]}),
        ("vol_2", "vol_2", {"Volume": [node(volume("vol_2"))]}),
        (
            "web",
            "vol_1",
            {"Servers": [servers(server())], "Volumes": [volumes(volume("vol_1", name="web", bootable=True))]},
        ),
        ("data", "vol_2", {"Servers": [servers(server())], "Volumes": [volumes(volume("vol_2"))]}),
    ],
)
def test_a_snapshot_is_taken_of_a_volume_or_the_boot_volume_of_a_server(
    wanted: str, volume_id: str, answers: dict[str, list[Reply]]
) -> None:
    run = ran(
        *("snapshot", wanted, "--name", "nightly", "--idempotency-key", "k"),
        CreateSnapshot=[created()],
        Settling=[settling(snapshot(status="SAVING"), snapshot())],
        **answers,
    )

    assert (run.code, run.out) == (0, "nightly is ACTIVE: img_7\n")
    assert run.inputs == [{"volumeId": volume_id, "name": "nightly", "idempotencyKey": "k"}]


def test_a_snapshot_is_named_after_its_server_and_the_time() -> None:
    run = ran("snapshot", "srv_1", "--no-wait", "--json", Server=[node(server())], CreateSnapshot=[created()])

    assert run.json["status"] == "SAVING"
    assert re.fullmatch(r"web \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", run.inputs[0]["name"])


def test_a_snapshot_that_lost_its_server_ends_the_command_with_1() -> None:
    lost = snapshot(status="ERROR", failure=FAILED)

    run = ran(
        "snapshot", "srv_1", "--json", Server=[node(server())], CreateSnapshot=[created()], Settling=[settling(lost)]
    )

    assert (run.code, run.json["error"]["code"]) == (1, "SOURCE_UNAVAILABLE")


def test_a_name_of_a_server_and_of_a_volume_is_ambiguous() -> None:
    both = {"Servers": [servers(server(name="data"))], "Volumes": [volumes(volume("vol_2"), volume("vol_3", name="x"))]}

    run = ran("snapshot", "data", "--json", **both)

    assert (run.code, run.json["error"]["ids"]) == (3, ["srv_1", "vol_2"])


def test_a_limit_on_snapshots_says_how_to_make_room() -> None:
    mistake = {"code": "QUOTA_EXCEEDED", "message": "All are kept.", "hint": "Delete some.", "field": ["volumeId"]}
    full = data(createSnapshot={"snapshot": None, "userErrors": [mistake]})

    run = ran("snapshot", "srv_1", Server=[node(server())], CreateSnapshot=[full])

    assert run.code == 3
    assert "`images quota`" in run.err


def test_the_snapshots_of_a_volume_or_of_the_project_are_listed() -> None:
    of_volume = ran(
        *("snapshots", "web", "--json"),
        Servers=[servers(server())],
        Volumes=[volumes()],
        VolumeSnapshots=[
            node({"snapshots": page(snapshot("img_7"), more="c1")}),
            node({"snapshots": page(snapshot("img_8"))}),
        ],
    )
    of_project = ran("snapshots", Images=[images(snapshot(virtualSize=1 << 30))])
    none = ran("snapshots", Images=[images()])

    assert [one["id"] for one in of_volume.json] == ["img_7", "img_8"]
    assert of_volume.asked[-1].variables == {"volume": "vol_1", "after": "c1"}
    assert of_project.asked[0].variables["filter"]["types"] == ["SNAPSHOT"]
    assert [line.split()[:5] for line in of_project.out.splitlines()][1] == ["nightly", "ACTIVE", "web", "1.0", "GiB"]
    assert "images snapshot" in none.err


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        (
            {"serverName": "web", "capturedAt": "2026-01-01T00:00:00Z", "quiet": False, "server": {"id": "srv_1"}},
            ["server web (srv_1)", "captured 2026-01-01T00:00:00Z", "file systems as after a power failure"],
        ),
        (
            {"volumeName": "data", "capturedAt": "2026-01-01T00:00:00Z", "quiet": True},
            ["volume data (vol_2)", "captured 2026-01-01T00:00:00Z", "file systems quiet"],
        ),
        ({"snapshotName": "nightly", "snapshot": {"id": "img_7"}}, ["snapshot nightly (img_7)"]),
    ],
)
def test_an_image_says_what_it_was_made_of(source: dict[str, Any], lines: list[str]) -> None:
    made = image("img_9", source=source, volume={"id": "vol_2", "name": "data"})
    whole = made | {"monthlyCost": None, "bootReadiness": None, "bootChecked": None}

    run = ran("show", "img_9", Image=[data(image=whole)])

    assert set(lines) <= {" ".join(line.split()) for line in run.out.splitlines()}


def promoted() -> Reply:
    source = {"snapshotName": "nightly", "snapshot": {"id": "img_7"}}
    return data(createImage={"image": image("img_9", name="golden", source=source), "userErrors": []})


def test_a_snapshot_is_promoted_by_its_name() -> None:
    found = [images(snapshot("img_7"), snapshot("img_8", name="other"))]

    run = ran("promote", "Nightly", "--name", "golden", Images=found, CopyImage=[promoted()])

    assert (run.code, run.out) == (0, "golden is ACTIVE: img_9\n")
    assert run.inputs[0]["source"] == {"snapshot": {"snapshotId": "img_7"}}


def test_no_snapshot_is_guessed_where_several_have_the_name() -> None:
    run = ran("promote", "nightly", "--name", "golden", "--json", Images=[images(snapshot("img_7"), snapshot("img_8"))])

    assert (run.code, run.json["error"]["ids"], run.inputs) == (3, ["img_7", "img_8"], [])


# ------------------------------------------------------------ images of servers


@pytest.mark.parametrize("words", [("--name", "golden"), ("golden",)])
def test_an_image_is_made_of_a_server_that_runs(words: tuple[str, ...]) -> None:
    saving = data(createImage={"image": image("img_9", "SAVING", name="golden"), "userErrors": []})

    run = ran(
        *("copy", "--from-server", "web", *words),
        Servers=[servers(server())],
        CopyImage=[saving],
        Settling=[settling(image("img_9", name="golden"))],
    )

    assert (run.code, run.out) == (0, "golden is ACTIVE: img_9\n")
    assert run.inputs[0]["source"] == {"server": {"serverId": "srv_1"}}
    assert run.inputs[0]["name"] == "golden"


@pytest.mark.parametrize(
    "words", [(), ("image",), ("image", "name", "--name", "other"), ("--from-server", "web"), ("--name", "n")]
)
def test_a_copy_needs_one_source_and_one_name(words: tuple[str, ...]) -> None:
    run = ran("copy", *words, "--json")

    assert (run.code, run.json["error"]["code"], run.asked) == (2, "CONFIGURATION", [])


def test_a_promoted_snapshot_says_what_to_delete_first() -> None:
    mistake = {"code": "IN_USE", "message": "It was promoted to golden.", "hint": "image { promotedTo }", "field": None}
    whole = snapshot() | {"monthlyCost": None, "bootReadiness": None, "bootChecked": None}
    refused = data(deleteImage={"deletedImageId": None, "cursor": None, "userErrors": [mistake]})

    run = ran("delete", "img_7", "--yes", Image=[data(image=whole)], DeleteImage=[refused])

    assert run.code == 3
    assert "Delete those images first with `images delete`." in run.err
