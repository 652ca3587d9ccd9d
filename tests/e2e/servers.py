"""Servers of a gateway that runs them on real QEMU, and what tests ask of them."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.e2e.client import Client
from workers.hypervisor import processes

T = TypeVar("T")

PROGRAMS = ("qemu-system-x86_64", "qemu-img", "qemu-nbd", "bwrap")
# The guests have no time to shut down: they may still be booting.
SETTINGS = {"IMAGES_SERVERS": "auto", "IMAGES_ACCELERATOR": "tcg", "IMAGES_STOP_SECONDS": "0.1"}
# A guest under software emulation boots in ten seconds, on a machine with nothing else to do.
_PATIENCE_SECONDS = 120
_POLL_SECONDS = 0.1
_SERVER = """
query Server($id: ID!) {
  node(id: $id) { ... on Server { status failure { code message } bootVolume { id size } } }
}"""
_CONSOLE = "query Console($id: ID!) { node(id: $id) { ... on Server { console(lastKib: 256) { text } } } }"


@contextmanager
def ending_servers(data: Path) -> Iterator[Path]:
    """A data folder, whose virtual machines are ended with the block."""
    try:
        yield data
    finally:
        for description in (data / "host/servers").glob("*/server.json"):
            processes.kill(json.loads(description.read_text())["uuid"])


def until(happened: Callable[[], T | None]) -> T:
    """The first result that is neither None nor false."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (result := happened()):
        assert time.monotonic() < deadline
        time.sleep(_POLL_SECONDS)
    return result


def launch(client: Client, image_id: str, **given: Any) -> str:
    """The id of a new server. Raises Refused."""
    wish = {"projectId": client.project_id, "imageId": image_id, "name": "web", "memoryMib": 256} | given
    return str(client.act("launchServer", "server { id }", **wish)["server"]["id"])


def with_status(client: Client, server_id: str, status: str) -> Any:
    """The server as soon as it has a status."""

    def looked_up() -> Any:
        server = client.ask(_SERVER, id=server_id)["node"]
        assert server["failure"] is None
        return server if server["status"] == status else None

    return until(looked_up)


def console(client: Client, server_id: str, line: str) -> str:
    """The console of a server as soon as it has some text."""

    def said() -> str | None:
        text = str(client.ask(_CONSOLE, id=server_id)["node"]["console"]["text"])
        return text if line in text else None

    return until(said)


def stop(client: Client, server_id: str) -> None:
    """Stop a server, and wait until it has stopped. Raises Refused."""
    client.act("stopServer", "server { id }", serverId=server_id)
    with_status(client, server_id, "STOPPED")


def delete(client: Client, server_id: str) -> None:
    """Delete a server; its host ends it later. Raises Refused."""
    client.act("deleteServer", "deletedServerId", serverId=server_id)
