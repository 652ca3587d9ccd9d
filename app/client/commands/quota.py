"""`images quota`"""

from collections.abc import Mapping
from typing import Annotated

import typer

from app.client.api.catalogue import find_project
from app.client.api.connection import Connection
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.errors import Misconfigured, NotFound
from app.client.generated.fragments import QuotaFields, QuotaFieldsQuota
from app.client.generated.input_types import SetProjectQuotaInput
from app.client.terminal.output import Output, as_received
from app.client.terminal.text import size

_Limit = str | None


def quota(
    custom_images: Annotated[_Limit, typer.Option(metavar="N|default", help="Set the limit on custom images.")] = None,
    storage_gib: Annotated[
        _Limit, typer.Option(metavar="N|default", help="Set the limit on custom images and snapshots in GiB.")
    ] = None,
    snapshots_per_volume: Annotated[
        _Limit, typer.Option(metavar="N|default", help="Set how many snapshots of each volume are kept.")
    ] = None,
    servers: Annotated[_Limit, typer.Option(metavar="N|default", help="Set the limit on servers.")] = None,
    volumes: Annotated[_Limit, typer.Option(metavar="N|default", help="Set the limit on volumes.")] = None,
    volume_storage_gib: Annotated[
        _Limit, typer.Option(metavar="N|default", help="Set the limit on the size of all volumes in GiB.")
    ] = None,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the limits of a project and their usage.

    Owners of the organization and operators can set limits; `default` restores the installation's default.
    """
    with command(as_json=as_json) as output:
        limits = _limits(
            {
                "custom_images": custom_images,
                "image_storage_gib": storage_gib,
                "snapshots_per_volume": snapshots_per_volume,
                "servers": servers,
                "volumes": volumes,
                "volume_storage_gib": volume_storage_gib,
            }
        )
        found, limited = run(_quota(options.connection_of(connection, project), limits))
        if as_json:
            output.json({"project": {"id": found.id, "name": found.name}, **as_received(limited)})
        else:
            _show(output, found, limited)


def _limits(texts: Mapping[str, _Limit]) -> dict[str, int | None]:
    """The limits to set, None for the default. Raises Misconfigured."""
    return {name: _limit(text) for name, text in texts.items() if text is not None}


def _limit(text: str) -> int | None:
    if text.lower() == "default":
        return None
    # The maximum of GraphQL's Int (specification, section 3.5.1).
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**31:
        raise Misconfigured(f"{text} is not a valid limit.", hint="Use a number from 0 to 2147483647, or default.")
    return int(text)


async def _quota(connection: Connection, limits: Mapping[str, int | None]) -> tuple[QuotaFields, QuotaFieldsQuota]:
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        if limits:
            payload = (await at.api.set_quota(SetProjectQuotaInput(project_id=project_id, **limits))).set_project_quota
            project = payload.project if payload else None
        else:
            project = (await at.api.quota(project_id)).project
        if project is None or project.quota is None:
            raise NotFound("There is no such project.")
        return project, project.quota


def _show(output: Output, project: QuotaFields, quota: QuotaFieldsQuota) -> None:
    images, storage = quota.custom_images, quota.image_storage
    reserved = f", and {size(storage.reserved)} reserved for uploads" if storage.reserved else ""
    snapshots, volumes = quota.snapshots_per_volume, quota.volume_storage
    output.details(
        [
            ("project", f"{project.name} ({project.id})"),
            ("custom images", f"{images.used} of {images.limit}"),
            ("image storage", f"{size(storage.used)} of {size(storage.limit)}{reserved}"),
            ("snapshots per volume", "the newest is kept" if snapshots == 1 else f"the newest {snapshots} are kept"),
            ("servers", f"{quota.servers.used} of {quota.servers.limit}"),
            ("volumes", f"{quota.volumes.used} of {quota.volumes.limit}"),
            ("volume storage", f"{size(volumes.used)} of {size(volumes.limit)}"),
        ]
    )
