"""Snapshots and images of servers through the API: what they are, what is refused, and which ones are kept."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.lifecycle import ImageType, JobKind, ServerStatus, SourceKind
from app.models import Project, Server
from app.sizes import GIB
from tests.support.gateway import ADMIN, MEMBER, READER, STRANGER, Gateway, until
from tests.support.host_bench import Bench, host_bench, working
from tests.support.serving_servers import (
    boot_volume,
    image,
    launch,
    promote,
    refused,
    remove_hosts,
    server_row,
    snapshot,
    volume,
)
from tests.support.sharing import act, done, feed_of, neighbour

pytestmark = pytest.mark.anyio

SHOWN = """query ($id: ID!) { node(id: $id) { ... on Image {
  type status virtualSize minBootDiskGib storedSize sha256 architecture os { family version } labels { key value }
  failure { code message hint retriable } progress { phase } viewerCan { delete launch share } volume { id }
  monthlyCost { amount } promotedTo(first: 9) { totalCount nodes { id } }
  source { __typename ... on ServerSource { serverName capturedAt quiet server { id } }
    ... on VolumeSource { volumeName capturedAt quiet } ... on SnapshotSource { snapshotName snapshot { id } }
    ... on CopySource { imageName } } } } }"""
SNAPSHOTS = """query ($id: ID!) { node(id: $id) { ... on Volume { snapshots(first: 9) { totalCount asOf
  nodes { id name } edges { cursor } } } } }"""
USED = """query ($id: ID!) { project(id: $id) { quota { customImages { used } imageStorage { used reserved }
  snapshotsPerVolume } } }"""


@pytest.fixture
async def bench(gateway: Gateway, tmp_path: Path) -> AsyncIterator[Bench]:
    async with host_bench(gateway, tmp_path) as bench, working(bench):
        yield bench


@pytest.fixture
async def server(bench: Bench, gateway: Gateway, project: str) -> dict[str, Any]:
    """A server that runs, from an image with an operating system."""
    disk = await image(gateway, project, os={"family": "Rocky", "version": "9"}, name="origin")
    made = await launch(gateway, project, disk["id"])
    await until(lambda: runs(gateway, made))
    return made


async def runs(gateway: Gateway, server: dict[str, Any]) -> bool:
    return (await server_row(gateway, server["id"])).status == ServerStatus.RUNNING


async def shown(gateway: Gateway, image: dict[str, Any], subject: str = ADMIN) -> dict[str, Any]:
    found: dict[str, Any] = (await gateway.ask(SHOWN, subject, id=image["id"]))["node"]
    return found


async def is_stored(gateway: Gateway, image: dict[str, Any]) -> bool:
    return (await gateway.image(image["id"])).status == "ACTIVE"


async def snapshots_of(gateway: Gateway, volume_id: str) -> list[str]:
    found = (await gateway.ask(SNAPSHOTS, id=volume_id))["node"]["snapshots"]
    assert found["totalCount"] == len(found["nodes"])
    return [node["id"] for node in found["nodes"]]


async def stored(bench: Bench, volume_id: str, **given: Any) -> dict[str, Any]:
    """A snapshot that is ACTIVE, and nothing of which is left on its host."""
    made = await snapshot(bench.gateway, volume_id, **given)
    await until(lambda: is_over(bench, made))
    assert await is_stored(bench.gateway, made)
    return made


async def is_over(bench: Bench, image: dict[str, Any]) -> bool:
    return all(job.image_id != image["id"] for job in await bench.unfinished())


# ------------------------------------------------------------ what a snapshot is


async def test_a_snapshot_has_the_bytes_of_the_moment_at_which_it_was_created(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    boot = await boot_volume(gateway, server)
    bench.write(boot, b"before")
    held = bench.hold_store()
    made = await snapshot(gateway, boot, labels=[{"key": "a", "value": "1"}])
    (source,) = [made["source"]]
    assert (made["type"], made["status"], made["failure"]) == ("SNAPSHOT", "SAVING", None)
    assert source["capturedAt"] is not None
    await held.reached()
    assert (await shown(gateway, made))["progress"] == {"phase": "CAPTURING"}
    bench.write(boot, b"behind")
    held.go.set()
    await until(lambda: is_over(bench, made))
    content = gateway.store.path((await gateway.blob(made)).key).read_bytes()
    assert content.startswith(b"before")
    found = await shown(gateway, made)
    assert found == {
        "type": "SNAPSHOT", "status": "ACTIVE", "virtualSize": GIB, "minBootDiskGib": 1, "storedSize": len(content),
        "sha256": None, "architecture": "X86_64", "os": {"family": "rocky", "version": "9"},
        "labels": [{"key": "a", "value": "1"}], "failure": None, "progress": None,
        "viewerCan": {"delete": True, "launch": True, "share": False}, "volume": {"id": boot},
        "monthlyCost": {"amount": "0.000000"}, "promotedTo": {"totalCount": 0, "nodes": []},
        "source": {
            "__typename": "ServerSource", "serverName": "web", "capturedAt": source["capturedAt"], "quiet": False,
            "server": {"id": server["id"]},
        },
    }  # fmt: skip
    events = await feed_of(gateway, project, made)
    assert [(event["__typename"], event["actor"], event.get("fields")) for event in events] == [
        ("ImageCreated", ADMIN, None), ("ImageUpdated", None, ["source"]), ("ImageStatusChanged", None, None),
    ]  # fmt: skip
    assert await snapshots_of(gateway, boot) == [made["id"]]
    assert (bench.hypervisor.running, bench.hypervisor.points) == ({server["id"]}, set())
    assert [job.detail for job in await gateway.all_jobs() if job.image_id == made["id"] and job.kind == JobKind.HASH]


async def test_a_server_is_launched_from_a_snapshot(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    made = await stored(bench, await boot_volume(gateway, server))
    wish = {"projectId": project, "imageId": made["id"], "name": "copy"}
    assert (await act(gateway, "launchServer", **wish, give="server { image { id } }"))["server"] == {
        "image": {"id": made["id"]}
    }


async def test_a_deleted_server_keeps_its_snapshots_which_still_name_it(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    made = await stored(bench, boot := await boot_volume(gateway, server))
    await done(gateway, "deleteServer", serverId=server["id"])
    await until(lambda: is_empty(bench))
    found = await shown(gateway, made)
    assert (found["status"], found["volume"]) == ("ACTIVE", None)
    assert (found["source"]["serverName"], found["source"]["server"]) == ("web", None)
    assert (await gateway.image(made["id"])).volume_id == boot


async def is_empty(bench: Bench) -> bool:
    return not bench.hypervisor.disks and await bench.unfinished() == []


async def test_a_snapshot_of_a_volume_that_no_server_uses_is_quiet_and_names_the_volume(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    data = await volume(gateway, project, name="db")
    disk = await image(gateway, project)
    other = await launch(gateway, project, disk["id"], dataVolumeIds=[data["id"]])
    await until(lambda: runs(gateway, other))
    attached = await stored(bench, data["id"])
    await done(gateway, "deleteServer", serverId=other["id"])
    await until(lambda: is_over_for(bench, other))
    detached = await stored(bench, data["id"])
    assert await snapshots_of(gateway, data["id"]) == [attached["id"], detached["id"]]
    assert (await shown(gateway, attached))["source"]["serverName"] == "web"
    found = await shown(gateway, detached)
    assert (found["source"].pop("capturedAt") is not None, found["source"]) == (
        True, {"__typename": "VolumeSource", "volumeName": "db", "quiet": True},
    )  # fmt: skip
    assert (found["os"], found["architecture"]) == (None, None)


async def is_over_for(bench: Bench, server: dict[str, Any]) -> bool:
    return server["id"] not in bench.hypervisor.machines and await bench.unfinished() == []


async def test_a_snapshot_counts_against_the_storage_and_not_as_a_custom_image(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    boot = await boot_volume(gateway, server)
    before = (await gateway.ask(USED, id=project))["project"]["quota"]
    bench.write(boot, b"x")
    made = await stored(bench, boot)
    after = (await gateway.ask(USED, id=project))["project"]["quota"]
    more = after["imageStorage"]["used"] - before["imageStorage"]["used"]
    assert (more, more > 0) == ((await shown(gateway, made))["storedSize"], True)
    assert (after["customImages"], after["imageStorage"]["reserved"]) == (before["customImages"], 0)


# ------------------------------------------------------------ what is refused


async def test_only_members_take_snapshots_and_others_learn_nothing(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    boot = await boot_volume(gateway, server)
    nothing = await refused(gateway, "createSnapshot", STRANGER, volumeId="vol_" + "0" * 26, name="x")
    assert await refused(gateway, "createSnapshot", STRANGER, volumeId=boot, name="x") == nothing
    assert (nothing["code"], nothing["field"]) == ("NOT_FOUND", ["volumeId"])
    await done(gateway, "setProjectMember", projectId=project, subject=READER, role="READER")
    assert (await refused(gateway, "createSnapshot", READER, volumeId=boot, name="x"))["code"] == "FORBIDDEN"
    source = {"server": {"serverId": server["id"]}}
    mistake = await refused(gateway, "createImage", READER, projectId=project, name="x", source=source)
    assert mistake["code"] == "FORBIDDEN"


async def test_a_volume_without_a_disk_or_whose_server_starts_is_not_ready(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    data = await volume(gateway, project)
    mistake = await refused(gateway, "createSnapshot", volumeId=data["id"], name="x")
    assert (mistake["code"], mistake["field"]) == ("NOT_READY", ["volumeId"])
    assert "never attached" in mistake["message"]
    await gateway.change(Server, server["id"], status=ServerStatus.STARTING)
    mistake = await refused(gateway, "createSnapshot", volumeId=await boot_volume(gateway, server), name="x")
    assert (mistake["code"], mistake["message"]) == ("NOT_READY", "The server is starting.")
    source = {"server": {"serverId": server["id"]}}
    mistake = await refused(gateway, "createImage", projectId=project, name="x", source=source)
    assert (mistake["code"], mistake["field"]) == ("NOT_READY", ["source", "server", "serverId"])


async def test_one_capture_of_a_volume_runs_at_a_time(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    held, boot = bench.hold_store(), await boot_volume(gateway, server)
    first = await snapshot(gateway, boot, name="the first")
    await held.reached()
    mistake = await refused(gateway, "createSnapshot", volumeId=boot, name="x")
    assert (mistake["code"], "the first" in mistake["message"]) == ("NOT_READY", True)
    assert mistake["hint"] == "Try again when that image is ACTIVE or in ERROR."
    source = {"server": {"serverId": server["id"]}}
    assert (await refused(gateway, "createImage", projectId=project, name="x", source=source))["code"] == "NOT_READY"
    held.go.set()
    await until(lambda: is_stored(gateway, first))
    await stored(bench, boot)


async def test_without_its_host_no_volume_is_captured(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    await remove_hosts(gateway)
    mistake = await refused(gateway, "createSnapshot", volumeId=await boot_volume(gateway, server), name="x")
    assert (mistake["code"], mistake["field"]) == ("NO_HYPERVISOR", ["volumeId"])


async def test_what_is_not_valid_is_refused(bench: Bench, gateway: Gateway, server: dict[str, Any]) -> None:
    boot = await boot_volume(gateway, server)
    for wrong in ({"name": " "}, {"labels": [{"key": "", "value": ""}]}, {"idempotencyKey": ""}):
        wish: dict[str, Any] = {"volumeId": boot, "name": "x"} | wrong
        assert (await refused(gateway, "createSnapshot", **wish))["code"] == "INVALID"


async def test_a_host_that_does_not_answer_in_time_takes_the_snapshot_later(
    bench: Bench, gateway: Gateway, server: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.settings, "snapshot_seconds", 0.01)
    bench.hypervisor.hold("point")
    boot = await boot_volume(gateway, server)
    made = await snapshot(gateway, boot, idempotencyKey="once")
    assert (made["status"], made["source"]) == ("SAVING", {"capturedAt": None})
    assert (await shown(gateway, made))["progress"] == {"phase": "WAITING"}
    monkeypatch.setattr(gateway.settings, "snapshot_seconds", 30)
    again = asyncio.create_task(snapshot(gateway, boot, idempotencyKey="once"))
    await bench.hypervisor.reached["point"].wait()
    bench.hypervisor.held.pop("point").set()
    found = await again
    assert (found["id"], found["source"]["capturedAt"] is not None) == (made["id"], True)
    await until(lambda: is_over(bench, made))
    mistake = await refused(gateway, "createSnapshot", volumeId=boot, name="another", idempotencyKey="once")
    assert mistake["code"] == "CONFLICT"


async def test_a_snapshot_that_fails_at_once_is_returned_with_its_failure(
    bench: Bench, gateway: Gateway, server: dict[str, Any]
) -> None:
    boot = await boot_volume(gateway, server)
    await bench.hypervisor.destroy(server["id"])
    await bench.hypervisor.delete_volume(boot)
    made = await snapshot(gateway, boot)
    assert (made["status"], made["failure"]["code"], made["failure"]["retriable"]) == (
        "ERROR", "SOURCE_UNAVAILABLE", False,
    )  # fmt: skip
    await until(lambda: is_over(bench, made))
    mistake = await refused(gateway, "retryImage", imageId=made["id"])
    assert (mistake["code"], mistake["hint"]) == ("CONFLICT", made["failure"]["hint"])


# ------------------------------------------------------------ promotion


async def test_a_snapshot_is_promoted_without_copying_and_stays_until_its_images_are_deleted(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    made = await stored(bench, await boot_volume(gateway, server), labels=[{"key": "a", "value": "1"}])
    files, before = gateway.files(), (await gateway.ask(USED, id=project))["project"]["quota"]
    promoted = await promote(gateway, project, made)
    after = (await gateway.ask(USED, id=project))["project"]["quota"]
    assert (promoted["status"], gateway.files()) == ("ACTIVE", files)
    assert after["customImages"]["used"] == before["customImages"]["used"] + 1
    assert after["imageStorage"] == before["imageStorage"]
    found, origin = await shown(gateway, promoted), await shown(gateway, made)
    assert found["source"] == {
        "__typename": "SnapshotSource", "snapshotName": "nightly", "snapshot": {"id": made["id"]},
    }  # fmt: skip
    for name in ("virtualSize", "minBootDiskGib", "storedSize", "architecture", "os", "labels"):
        assert found[name] == origin[name]
    assert (found["type"], found["volume"], found["promotedTo"]) == ("CUSTOM", None, None)
    assert found["viewerCan"] == {"delete": True, "launch": True, "share": True}
    assert origin["promotedTo"] == {"totalCount": 1, "nodes": [{"id": promoted["id"]}]}
    assert origin["viewerCan"]["delete"] is False
    others = [await promote(gateway, project, made, name=f"image {at}") for at in range(3)]
    mistake = await refused(gateway, "deleteImage", imageId=made["id"])
    assert (mistake["code"], mistake["field"]) == ("IN_USE", ["imageId"])
    assert mistake["message"].endswith("promoted, image 0, image 1 and 1 more.")
    for one in (promoted, *others):
        await done(gateway, "deleteImage", imageId=one["id"])
    await done(gateway, "deleteImage", imageId=made["id"])


async def test_only_an_active_snapshot_of_the_project_is_promoted(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    async def refusal(project_id: str, image_id: str, subject: str = ADMIN) -> dict[str, Any]:
        source = {"snapshot": {"snapshotId": image_id}}
        return await refused(gateway, "createImage", subject, projectId=project_id, name="x", source=source)

    held = bench.hold_store()
    made = await snapshot(gateway, await boot_volume(gateway, server))
    mistake = await refusal(project, made["id"])
    assert (mistake["code"], mistake["field"]) == ("NOT_READY", ["source", "snapshot", "snapshotId"])
    held.go.set()
    await until(lambda: is_over(bench, made))
    assert (await refusal(await gateway.project(), made["id"]))["code"] == "FORBIDDEN"
    assert (await refusal(gateway.alpha, made["id"], MEMBER))["code"] == "NOT_FOUND"
    assert (await refusal(project, (await image(gateway, project))["id"]))["code"] == "INVALID"
    await gateway.change(Project, project, custom_images_limit=1)
    assert (await refusal(project, made["id"]))["code"] == "QUOTA_EXCEEDED"


async def test_a_copy_of_a_snapshot_does_not_keep_it(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    made = await stored(bench, await boot_volume(gateway, server))
    source = {"image": {"imageId": made["id"]}}
    copy = await done(gateway, "createImage", projectId=project, name="copy", source=source, give="image { id }")
    await done(gateway, "deleteImage", imageId=made["id"])
    assert (await shown(gateway, copy))["source"] == {"__typename": "CopySource", "imageName": "nightly"}


# ------------------------------------------------------------ images of servers


async def test_an_image_of_a_server_is_one_custom_image(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    boot, before = await boot_volume(gateway, server), (await gateway.ask(USED, id=project))["project"]["quota"]
    wish = {"projectId": project, "name": "golden", "source": {"server": {"serverId": server["id"]}}}
    made = await done(gateway, "createImage", give="image { id }", **wish, os={"family": "mine"})
    assert (await shown(gateway, made))["source"]["capturedAt"] is not None
    await until(lambda: is_over(bench, made))
    found = await shown(gateway, made)
    assert (found["type"], found["status"], found["volume"]) == ("CUSTOM", "ACTIVE", {"id": boot})
    assert (found["os"], found["architecture"]) == ({"family": "mine", "version": None}, "X86_64")
    assert found["source"]["server"] == {"id": server["id"]}
    assert found["viewerCan"]["share"] is True
    assert await snapshots_of(gateway, boot) == []
    after = (await gateway.ask(USED, id=project))["project"]["quota"]
    assert after["customImages"]["used"] == before["customImages"]["used"] + 1
    other = await neighbour(gateway)
    given = {"imageId": made["id"], "projectId": other, "grant": "LAUNCH", "offer": True}
    shared = await done(gateway, "shareImage", give="share { id }", **given)
    await done(gateway, "acceptImageShare", STRANGER, shareId=shared["id"])
    there = await shown(gateway, made, STRANGER)
    assert (there["volume"], there["source"]["server"], there["source"]["serverName"]) == (None, None, "web")
    mistake = await refused(gateway, "createImage", **wish | {"projectId": await gateway.project()})
    assert (mistake["code"], mistake["field"]) == ("FORBIDDEN", ["source", "server", "serverId"])
    await gateway.change(Project, project, custom_images_limit=1)
    assert (await refused(gateway, "createImage", **wish))["code"] == "QUOTA_EXCEEDED"


# ------------------------------------------------------------ the rolling cap


async def test_the_newest_snapshots_stay_and_those_that_are_protected_or_promoted(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    boot = await boot_volume(gateway, server)
    await gateway.change(Project, project, snapshots_per_volume_limit=3)
    made = [await stored(bench, boot, name=str(at)) for at in range(3)]
    await done(gateway, "updateImage", imageId=made[0]["id"], protected=True)
    await promote(gateway, project, made[1])
    held = bench.hold_store()
    made.append(await snapshot(gateway, boot))
    await held.reached()
    assert await snapshots_of(gateway, boot) == [one["id"] for one in made]
    held.go.set()
    await until(lambda: is_over(bench, made[3]))
    assert await snapshots_of(gateway, boot) == [made[at]["id"] for at in (0, 1, 3)]
    (*_, last) = await feed_of(gateway, project, made[2])
    assert (last["__typename"], last["actor"]) == ("ImageDeleted", None)
    await done(gateway, "updateImage", imageId=made[3]["id"], protected=True)
    mistake = await refused(gateway, "createSnapshot", volumeId=boot, name="x")
    assert (mistake["code"], mistake["field"]) == ("QUOTA_EXCEEDED", ["volumeId"])
    assert mistake["message"].startswith("The volume has 3 of 3 snapshots, and none of them can be replaced")
    await done(gateway, "updateImage", imageId=made[0]["id"], protected=False)
    made.append(await stored(bench, boot))
    assert await snapshots_of(gateway, boot) == [made[at]["id"] for at in (1, 3, 4)]


async def test_a_snapshot_that_fails_replaces_none_and_of_those_the_newest_stay(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    boot = await boot_volume(gateway, server)
    await gateway.change(Project, project, snapshots_per_volume_limit=2)
    good = [await stored(bench, boot) for _ in range(2)]
    failed = []
    for _ in range(3):
        held = bench.hold_store()
        failed.append(await snapshot(gateway, boot))
        await held.reached()
        bench.hypervisor.lose_point(boot)
        held.go.set()
        await until(lambda: is_over(bench, failed[-1]))
    assert await snapshots_of(gateway, boot) == [one["id"] for one in (*good, *failed)]
    last = await stored(bench, boot)
    assert await snapshots_of(gateway, boot) == [good[1]["id"], failed[1]["id"], failed[2]["id"], last["id"]]


async def test_by_default_a_hundred_snapshots_of_a_volume_are_kept(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    boot = await boot_volume(gateway, server)
    captured = {"type": ImageType.SNAPSHOT, "source_kind": SourceKind.SERVER, "volume_id": boot}
    old = await gateway.stock(project, *[captured | {"name": f"{n}", "protected": n == 1} for n in range(100)])
    promoted = {"source_kind": SourceKind.SNAPSHOT, "source_image_id": old[0]}
    await gateway.stock(project, {"name": "promoted"} | promoted)
    await stored(bench, boot)
    deleted = [image_id for image_id in old if (await gateway.image(image_id)).deleted_at is not None]
    assert deleted == old[2:3]


async def test_a_lower_limit_takes_effect_with_the_next_snapshot(
    bench: Bench, gateway: Gateway, project: str, server: dict[str, Any]
) -> None:
    boot = await boot_volume(gateway, server)
    for _ in range(4):
        await stored(bench, boot)
    await gateway.change(Project, project, snapshots_per_volume_limit=1)
    assert len(await snapshots_of(gateway, boot)) == 4
    last = await stored(bench, boot)
    assert await snapshots_of(gateway, boot) == [last["id"]]
