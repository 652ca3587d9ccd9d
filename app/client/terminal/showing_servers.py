"""Prints servers and volumes for people."""

from collections.abc import Sequence
from datetime import UTC, datetime

from app.client.generated.fragments import ServerFields, VolumeFields
from app.client.terminal.output import Output
from app.client.terminal.text import age, size
from app.sizes import MIB


def server_text(server: ServerFields) -> str:
    """The state of a server on one line."""
    return f"{server.name} is {server.status}: {server.id}"


def show_servers(output: Output, servers: Sequence[ServerFields]) -> None:
    """Print a table with one row per server."""
    rows = [
        (
            server.name,
            server.status,
            str(server.vcpus),
            size(server.memory_mib * MIB),
            size(server.boot_volume.size if server.boot_volume else None),
            server.image.name if server.image else "-",
            _age(server.created_at),
            server.id,
        )
        for server in servers
    ]
    columns = ("NAME", "STATUS", "VCPUS", "MEMORY", "BOOT DISK", "IMAGE", "LAUNCHED", "ID")
    output.table(columns, rows, right=("VCPUS", "MEMORY", "BOOT DISK"))


def show_server(output: Output, server: ServerFields, volumes: Sequence[VolumeFields]) -> None:
    """Print the details of a server, one line per field."""
    output.details(
        [
            ("id", server.id),
            ("name", server.name),
            ("project", server.project and server.project.name),
            ("status", server.status),
            ("failure", server.failure and server.failure.message),
            ("what to do", server.failure and server.failure.hint),
            ("image", server.image and f"{server.image.name} ({server.image.id})"),
            ("vcpus", server.vcpus),
            ("memory", size(server.memory_mib * MIB)),
            *(("boot disk" if one.bootable else "volume", _disk(one)) for one in volumes),
            ("launched", f"{server.created_at} ({_age(server.created_at)})"),
            ("launched by", server.created_by),
        ]
    )


def show_volumes(output: Output, volumes: Sequence[VolumeFields]) -> None:
    """Print a table with one row per volume."""
    rows = [
        (
            volume.name,
            size(volume.size),
            "yes" if volume.bootable else "no",
            volume.server.name if volume.server else "-",
            _age(volume.created_at),
            volume.id,
        )
        for volume in volumes
    ]
    output.table(("NAME", "SIZE", "BOOTS", "SERVER", "CREATED", "ID"), rows, right=("SIZE",))


def _disk(volume: VolumeFields) -> str:
    named = "" if volume.bootable else f"{volume.name}, "
    return f"{named}{size(volume.size)} ({volume.id})"


def _age(created_at: str) -> str:
    return age(datetime.fromisoformat(created_at), datetime.now(UTC))
