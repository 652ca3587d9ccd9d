"""`images volumes`, `images create-volume`, `images delete-volume`"""

import secrets
from typing import Annotated

import typer

from app.client.api.advice import advising
from app.client.api.catalogue import find_project
from app.client.api.connection import Connection
from app.client.api.gateway import present
from app.client.api.servers import find_volume, volumes_of
from app.client.commands import options
from app.client.commands.confirming import confirm, require_answer
from app.client.commands.session import command, run, session
from app.client.generated.delete_volume import DeleteVolumeDeleteVolume
from app.client.generated.fragments import VolumeFields
from app.client.generated.input_types import CreateVolumeInput, DeleteVolumeInput
from app.client.retrying import RetryPolicy
from app.client.terminal.showing_servers import show_volumes
from app.client.terminal.text import size

_OPTIONS = {"sizeGib": "--size"}
_ADVICE = {
    "NO_HYPERVISOR": "Ask the operator to run `images host` on a machine with QEMU. There, `images doctor` lists what "
    "is missing.",
    "QUOTA_EXCEEDED": "Run `images quota` to see the limits. Delete volumes that are no longer needed with "
    "`images delete-volume`, or have the limit raised.",
}


def volumes(
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """List the volumes of a project, including the boot volumes of servers."""
    with command(as_json=as_json) as output:
        found = run(_listed(options.connection_of(connection, project)))
        if as_json:
            output.json(found)
        elif found:
            show_volumes(output, found)
        else:
            output.note("No volumes yet. Create one with `images create-volume NAME --size GIB`.")


def create_volume(
    name: Annotated[str, typer.Argument(help="Name of the volume.", show_default=False)],
    gib: Annotated[int, typer.Option("--size", metavar="GIB", help="Size in GiB.", show_default=False)],
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Key for retries: the same key returns the same volume.")
    ] = None,
    patience: options.PatienceSeconds = 120,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Create an empty volume, for `images launch --volume`. Prints the volume."""
    with command(as_json=as_json) as output:
        where, key = options.connection_of(connection, project), idempotency_key or secrets.token_hex(16)
        made = run(_created(where, name, gib, key, RetryPolicy(patience)))
        if as_json:
            output.json(made)
        else:
            output.line(f"{made.name} has {size(made.size)}: {made.id}")


def delete_volume(
    volume: Annotated[str, typer.Argument(help="A volume that no server uses, by id or name.", show_default=False)],
    yes: options.Yes = False,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Delete a volume that no server uses. A boot volume is deleted with its server."""
    with command(as_json=as_json) as output:
        where = options.connection_of(connection, project)
        require_answer(output, yes=yes)
        found = run(_found(where, volume))
        confirm(output, f"{found.name} ({found.id}, {size(found.size)})", yes=yes)
        payload = run(_deleted(where, found))
        if as_json:
            output.json({"deletedVolumeId": payload.deleted_volume_id, "cursor": payload.cursor})
        else:
            output.line(f"{found.name} is deleted: {found.id}")


async def _listed(connection: Connection) -> list[VolumeFields]:
    async with session(connection) as at:
        return await volumes_of(at.api, await find_project(at.api, connection.project))


async def _created(connection: Connection, name: str, gib: int, key: str, policy: RetryPolicy) -> VolumeFields:
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        given = CreateVolumeInput(project_id=project_id, name=name, size_gib=gib, idempotency_key=key)
        with advising(_OPTIONS, _ADVICE):
            payload = (await policy.until_done(lambda: at.api.create_volume(given))).create_volume
        return present(present(payload).volume)


async def _found(connection: Connection, wanted: str) -> VolumeFields:
    async with session(connection) as at:
        return await find_volume(at.api, wanted, connection.project)


async def _deleted(connection: Connection, volume: VolumeFields) -> DeleteVolumeDeleteVolume:
    async with session(connection) as at:
        # The volume may have changed since it was shown, for a reason to keep it.
        given = DeleteVolumeInput(volume_id=volume.id, expected_revision=volume.revision)
        with advising({}, {}):
            return present((await at.api.delete_volume(given)).delete_volume)
