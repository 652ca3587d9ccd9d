"""`images launch`"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from app.client.api.advice import advising
from app.client.api.catalogue import find_project
from app.client.api.connection import Connection
from app.client.api.gateway import Api, present
from app.client.api.naming import find_image_to_launch
from app.client.api.servers import find_volume, reached
from app.client.commands import options
from app.client.commands.input_files import public_keys, text_of
from app.client.commands.session import command, run, session
from app.client.commands.show import Image
from app.client.generated.enums import ServerFirmware, ServerStatus
from app.client.generated.fragments import ServerFields
from app.client.generated.input_types import LaunchServerInput
from app.client.retrying import RetryPolicy
from app.client.terminal.output import Output
from app.client.terminal.showing_servers import server_text

_OPTIONS = {"bootDiskGib": "--boot-disk", "firmware": "--firmware", "memoryMib": "--memory", "vcpus": "--vcpus"}
_ADVICE = {
    "NO_HYPERVISOR projectId": "Ask the operator to run `images host` on a machine with QEMU. There, `images doctor` "
    "lists what is missing.",
    "NO_HYPERVISOR memoryMib": "Use less --memory or fewer --vcpus, stop a server with `images stop`, or try again "
    "later.",
    "QUOTA_EXCEEDED": "Run `images quota` to see the limits. Delete servers or volumes that are no longer needed "
    "(`images delete-server`, `images delete-volume`), or have the limit raised.",
}


def launch(
    image: Image,
    name: Annotated[
        str, typer.Option(help="Name of the server. Its host name is derived from it.", show_default=False)
    ],
    boot_disk: Annotated[
        int | None,
        typer.Option(
            metavar="GIB", help="Size of the boot disk in GiB.", show_default="the smallest that the image allows"
        ),
    ] = None,
    vcpus: Annotated[int, typer.Option(metavar="N", help="Number of virtual processors.")] = 1,
    memory: Annotated[int, typer.Option(metavar="MIB", help="Memory in MiB.")] = 1024,
    ssh_key: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Public SSH keys that may log in; may be repeated.")
    ] = None,
    user_data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="User data for cloud-init, at most 64 KiB.")
    ] = None,
    volume: Annotated[
        list[str] | None, typer.Option(metavar="VOLUME", help="Volume to attach, by id or name; may be repeated.")
    ] = None,
    firmware: Annotated[
        ServerFirmware | None,
        typer.Option(
            parser=options.word_of(ServerFirmware),
            metavar=f"<{options.words(ServerFirmware)}>",
            help="Firmware of the server.",
            show_default="the one that the image boots with",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Launch the image even if it is known not to boot.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the server is RUNNING.")] = True,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Key for retries: the same key returns the same server.")
    ] = None,
    patience: options.PatienceSeconds = 120,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Launch a server from an image, and wait until it runs. Prints the server.

    The server runs until `images stop`, or until its guest shuts down.
    """
    with command(as_json=as_json) as output:
        wish = _Wish(
            image=image,
            volumes=volume or (),
            settings={
                "name": name,
                "boot_disk_gib": boot_disk,
                "vcpus": vcpus,
                "memory_mib": memory,
                "ssh_keys": public_keys(ssh_key or ()) or None,
                "user_data": text_of(user_data) if user_data else None,
                "firmware": firmware,
                "force": force,
                "idempotency_key": idempotency_key or secrets.token_hex(16),
            },
            wait=wait,
        )
        act = _launched(options.connection_of(connection, project), output, wish, RetryPolicy(patience))
        server = run(act, resumed_by="`images servers` lists the server if it was created.")
        if as_json:
            output.json(server)
        else:
            output.line(server_text(server))


@dataclass(frozen=True, slots=True)
class _Wish:
    """The server that the options describe. `settings` are the fields of the input that need no look-up."""

    image: str
    volumes: Sequence[str]
    settings: dict[str, Any]
    wait: bool


async def _launched(connection: Connection, output: Output, wish: _Wish, policy: RetryPolicy) -> ServerFields:
    async with session(connection) as at:
        given = await _input(at.api, connection, wish)
        with advising(_OPTIONS, _ADVICE):
            # The key makes it safe to repeat the request.
            payload = (await policy.until_done(lambda: at.api.launch_server(given))).launch_server
        server = present(present(payload).server)
        if not wish.wait:
            return server
        output.note(server_text(server))
        return await reached(at.api, server.id, ServerStatus.RUNNING, policy)


async def _input(api: Api, connection: Connection, wish: _Wish) -> LaunchServerInput:
    project_id = await find_project(api, connection.project)
    image = await find_image_to_launch(api, wish.image, project_id)
    volumes = [(await find_volume(api, wanted, project_id)).id for wanted in wish.volumes]
    return LaunchServerInput(project_id=project_id, image_id=image.id, data_volume_ids=volumes or None, **wish.settings)
