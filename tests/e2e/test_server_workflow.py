"""The whole way of a disk: uploaded, launched, captured from the running server, shared, and launched elsewhere.

The guests are real, and so is everything around them: a gateway, QEMU, and a small Linux that boots on it twice.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from socket import AF_INET, create_connection, create_server, socket
from typing import Any

import psutil
import pytest

from tests.e2e import data_folders, servers
from tests.e2e.client import Client, Refused, becomes, stored
from tests.e2e.gateway import Gateway, running
from tests.e2e.images import convert
from tests.e2e.servers import console, launch, until, with_status
from tests.support.tiny_linux import USUAL, TinyLinux, Variant, Virtio

pytestmark = pytest.mark.needs_program(*servers.PROGRAMS)

_READINESS = """query ($id: ID!) { node(id: $id) { ... on Image { os { displayName } bootReadiness {
  os { displayName } architecture firmware virtioBlk { state } virtioNet { state } cloudInit { state } } } } }"""
READY = {"virtioBlk": "PRESENT", "virtioNet": "PRESENT", "cloudInit": "PRESENT"}
FOUND = {
    Variant(virtio=Virtio.NONE): READY | {"virtioBlk": "MISSING", "virtioNet": "MISSING"},
    Variant(virtio=Virtio.LATE): READY | {"virtioBlk": "NOT_IN_INITRAMFS"},
    Variant(cloud_init=False): READY | {"cloudInit": "MISSING"},
}
_ORIGIN = """query ($id: ID!) { node(id: $id) { ... on Image {
  status volume { id } source { ... on ServerSource { serverName capturedAt server { id } } } } } }"""
_COUNT = "query ($id: ID!) { project(id: $id) { servers(first: 1) { totalCount } } }"

# Both have a file, and serve it to whoever reaches them.
_FIRST = """#!/bin/sh
echo "written by the first server" > /root/note; sync
httpd -h /root
echo "first: $(ip addr show eth0 | grep -o 'inet [0-9.]*') serves what was $(wget -q -O - http://127.0.0.1/note)"
"""
# It takes another address than the first one has, and a route to everywhere, before it tries to reach anything.
_SECOND = """#!/bin/sh
echo "second: the note was $(cat /root/note)"
httpd -h /root
ip addr flush dev eth0; ip addr add 10.0.2.99/24 dev eth0; ip route add default via 10.0.2.2
for url in {urls}; do
    timeout 2 wget -q -O /dev/null $url && echo "second: reached $url" &
done
wait
echo "second: has tried"
"""
_ITSELF = "http://127.0.0.1/note"


@pytest.fixture(scope="module")
def gateway(module_folder: Path) -> Iterator[Gateway]:
    with servers.ending_servers(module_folder / "data") as data, running(data, servers.SETTINGS) as gateway:
        yield gateway


def admin_of(gateway: Gateway, project: str, subject: str) -> Client:
    """A client of one who administers this project and no other."""
    data_folders.grant_admin(gateway.data, project, subject)
    return Client.with_token(gateway.url, data_folders.token(gateway.data, subject), project)


def uploaded(client: Client, linux: TinyLinux, variant: Variant, folder: Path) -> str:
    """An ACTIVE image, from a VMDK."""
    vmdk = folder / "disk.vmdk"
    convert(linux.raw(variant), vmdk, "vmdk")
    image_id = client.upload(vmdk)
    client.active(image_id)
    return image_id


def readiness(client: Client, image_id: str) -> dict[str, Any]:
    """What was found on the disk of an image, as soon as it is known."""

    def looked_up() -> Any:
        found = client.ask(_READINESS, id=image_id)["node"]
        # What was found is first kept with the bytes, and then published for their images.
        return found if found["bootReadiness"] and found["os"] else None

    image = until(looked_up)
    assert image["os"] == image["bootReadiness"]["os"] == {"displayName": "Debian 12"}
    return dict(image["bootReadiness"])


def states(report: dict[str, Any]) -> dict[str, str]:
    return {name: report[name]["state"] for name in READY}


def test_an_uploaded_disk_is_known_to_boot_or_not_to(gateway: Gateway, tiny_linux: TinyLinux, tmp_path: Path) -> None:
    with Client.of(gateway) as client:
        made = {variant: uploaded(client, tiny_linux, variant, tmp_path) for variant in FOUND}
        assert {variant: states(readiness(client, image_id)) for variant, image_id in made.items()} == FOUND

        for variant, image_id in made.items():
            if variant.virtio is not Virtio.EARLY:
                with pytest.raises(Refused, match="WILL_NOT_BOOT"):
                    launch(client, image_id)
        forced = launch(client, made[Variant(virtio=Virtio.NONE)], force=True)
        servers.delete(client, forced)
        for image_id in made.values():
            client.mutate("deleteImage", imageId=image_id)


def captured(image: dict[str, Any]) -> str:
    """The id of an image of a server that is being captured, and whose moment is known."""
    assert image["source"]["capturedAt"] is not None
    return str(image["id"])


def urls_of(gateway: Gateway, port: int) -> Iterator[str]:
    """Where a guest can reach itself, and could reach the gateway, a listener of this machine, and the other guest."""
    yield _ITSELF
    yield f"http://10.0.2.2:{gateway.port}/readyz"
    addresses = [each.address for all_ in psutil.net_if_addrs().values() for each in all_ if each.family == AF_INET]
    for address in ("10.0.2.2", *addresses):
        if not address.startswith("127."):
            yield f"http://{address}:{port}/"
    yield "http://10.0.2.15/note"


def assert_unheard(listener: socket) -> None:
    """Fails if something connected to a listener; it does hear this machine."""
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()
    create_connection(("127.0.0.1", listener.getsockname()[1])).close()
    listener.accept()[0].close()


def test_a_server_becomes_an_image_that_another_project_launches(
    gateway: Gateway, tiny_linux: TinyLinux, tmp_path: Path
) -> None:
    given = "source { ... on ServerSource { capturedAt } }"
    with admin_of(gateway, "alpha", "ann") as ann, admin_of(gateway, "beta", "bea") as bea, ExitStack() as stack:
        origin = uploaded(ann, tiny_linux, USUAL, tmp_path)
        report = readiness(ann, origin)
        assert (states(report), report["firmware"], report["architecture"]) == (READY, "BIOS", "X86_64")
        first = launch(ann, origin, userData=_FIRST)
        volume = with_status(ann, first, "RUNNING")["bootVolume"]
        assert int(volume["size"]) == ann.image(origin)["minBootDiskGib"] << 30
        said = console(ann, first, "is up after")
        assert "first: inet 10.0.2.15 serves what was written by the first server" in said

        source = {"server": {"serverId": first}}
        wish = {"projectId": ann.project_id, "name": "of a server", "source": source}
        image_id = captured(ann.act("createImage", f"image {{ id {given} }}", **wish)["image"])
        ann.active(image_id)
        assert states(readiness(ann, image_id)) == READY
        offer = {"imageId": image_id, "projectId": bea.project_id, "grant": "LAUNCH", "offer": True}
        share = ann.act("shareImage", "share { id state }", **offer)["share"]
        assert share["state"] == "OFFERED"
        bea.act("acceptImageShare", "share { id }", shareId=share["id"])
        listener = stack.enter_context(create_server(("", 0)))
        urls = " ".join(urls_of(gateway, listener.getsockname()[1]))
        second = launch(bea, image_id, userData=_SECOND.format(urls=urls))

        # While it boots.
        wish = {"volumeId": volume["id"], "name": "nightly"}
        snapshot_id = captured(ann.act("createSnapshot", f"snapshot {{ id {given} }}", **wish)["snapshot"])
        ann.active(snapshot_id)
        wish = {"projectId": ann.project_id, "name": "golden", "source": {"snapshot": {"snapshotId": snapshot_id}}}
        promoted = ann.act("createImage", "image { id status }", **wish)["image"]
        assert promoted["status"] == "ACTIVE"
        with pytest.raises(Refused, match=r"IN_USE.*golden"):
            ann.mutate("deleteImage", imageId=snapshot_id)

        said = console(bea, second, "second: has tried")
        assert "second: the note was written by the first server" in said
        assert re.findall(r"second: reached (\S+)", said) == [_ITSELF]
        assert_unheard(listener)

        servers.delete(ann, first)
        servers.delete(bea, second)
        assert [each.ask(_COUNT, id=each.project_id)["project"]["servers"]["totalCount"] for each in (ann, bea)] == [
            0,
            0,
        ]
        until(lambda: not [*(gateway.data / "host/servers").iterdir(), *(gateway.data / "host/volumes").iterdir()])
        kept = ann.ask(_ORIGIN, id=snapshot_id)["node"]
        assert (kept["status"], kept["volume"]) == ("ACTIVE", None)
        assert (kept["source"]["serverName"], kept["source"]["server"]) == ("web", None)
        for each in (promoted["id"], snapshot_id, image_id, origin):
            ann.mutate("deleteImage", imageId=each)
        becomes(lambda: stored(gateway.data), set())
