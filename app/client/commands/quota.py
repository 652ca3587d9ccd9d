"""`images quota`"""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from app.client.api import project_documents as documents
from app.client.api.catalogue import find_project
from app.client.api.connection import Connection
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.errors import Misconfigured, NotFound
from app.client.terminal.output import Output
from app.client.terminal.text import size

_Limit = str | None


def quota(
    custom_images: Annotated[
        _Limit, typer.Option(metavar="N|default", help="Set how many custom images there may be.")
    ] = None,
    storage_gib: Annotated[
        _Limit, typer.Option(metavar="N|default", help="Set how many GiB custom images and snapshots may take.")
    ] = None,
    snapshots_per_volume: Annotated[
        _Limit, typer.Option(metavar="N|default", help="Set how many snapshots of a volume are kept.")
    ] = None,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the limits of a project, and what is used of them.

    Owners of the organization and operators set them; `default` takes the installation's own again.
    """
    with command(as_json=as_json) as output:
        limits = _limits(
            {
                "customImages": custom_images,
                "imageStorageGib": storage_gib,
                "snapshotsPerVolume": snapshots_per_volume,
            }
        )
        found = run(_quota(options.connection_of(connection, project), limits))
        if as_json:
            output.json({"project": {"id": found["id"], "name": found["name"]}, **found["quota"]})
        else:
            _show(output, found)


def _limits(said: Mapping[str, _Limit]) -> dict[str, int | None]:
    """The limits to set, None for the default. Raises Misconfigured."""
    return {name: _limit(text) for name, text in said.items() if text is not None}


def _limit(text: str) -> int | None:
    if text.lower() == "default":
        return None
    # GraphQL's Int goes no further (specification, section 3.5.1).
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**31:
        raise Misconfigured(f"{text} is no limit.", hint="It is a number from 0 to 2147483647, or default.")
    return int(text)


async def _quota(connection: Connection, limits: Mapping[str, int | None]) -> dict[str, Any]:
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        if limits:
            payload = await at.api.carry_out(documents.SET_QUOTA, {"projectId": project_id, **limits})
            project = payload["project"]
        else:
            project = (await at.api.query(documents.QUOTA, project=project_id))["project"]
        if project is None or project["quota"] is None:
            raise NotFound("There is no such project.")
        return dict(project)


def _show(output: Output, project: Mapping[str, Any]) -> None:
    images, storage = project["quota"]["customImages"], project["quota"]["imageStorage"]
    promised = f", and {size(storage['reserved'])} promised to uploads" if storage["reserved"] else ""
    output.details(
        [
            ("project", f"{project['name']} ({project['id']})"),
            ("custom images", f"{images['used']} of {images['limit']}"),
            ("image storage", f"{size(storage['used'])} of {size(storage['limit'])}{promised}"),
            ("snapshots per volume", f"the newest {project['quota']['snapshotsPerVolume']} are kept"),
        ]
    )
