"""`images share`, `images unshare`, `images shares`"""

from collections.abc import Sequence
from typing import Annotated

import typer

from app.client.api.catalogue import find_image
from app.client.api.connection import Connection
from app.client.api.gateway import present
from app.client.api.sharing import share_image, share_with, shares_of
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.commands.show import Image
from app.client.errors import NotFound
from app.client.generated.enums import ShareGrant
from app.client.generated.fragments import ShareFields as Share
from app.client.generated.input_types import RevokeImageShareInput
from app.client.generated.revoke_share import RevokeShareRevokeImageShare
from app.client.terminal.showing_shares import share_text, show_shares

With = Annotated[
    str,
    typer.Option(
        "--with", metavar="PROJECT", help="The other project, by id, or by name if you see it.", show_default=False
    ),
]


def share(
    image: Image,
    with_: With,
    edit: Annotated[bool, typer.Option("--edit", help="Let it change name, OS and labels, too.")] = False,
    offer: Annotated[bool, typer.Option("--offer", help="Offer it to a project that you don't administer.")] = False,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Share an image with another project of the organization, which can launch servers from it.

    Run the command again with or without --edit to change what the other project may do.
    """
    with command(as_json=as_json) as output:
        grant = ShareGrant.LAUNCH_AND_EDIT if edit else ShareGrant.LAUNCH
        made = run(_shared(options.connection_of(connection, project), image, with_, grant, offer))
        if as_json:
            output.json(made)
        else:
            output.line(share_text(made))


def unshare(
    image: Image,
    with_: With,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Withdraw a share or an offer. The other project no longer sees the image, but keeps its copies."""
    with command(as_json=as_json) as output:
        gone, payload = run(_unshared(options.connection_of(connection, project), image, with_))
        if as_json:
            output.json({"revokedShareId": payload.revoked_share_id, "cursor": payload.cursor})
        else:
            output.line(f"{gone.image_name} is no longer shared with {gone.project.name}: {gone.id}")


def shares(
    image: Image,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """List the projects that an image is shared with or offered to."""
    with command(as_json=as_json) as output:
        found = run(_listed(options.connection_of(connection, project), image))
        if as_json:
            output.json(found)
        elif found:
            show_shares(output, found)
        else:
            output.note("The image is not shared with any other project.")


async def _shared(connection: Connection, wanted: str, project: str, grant: ShareGrant, offer: bool) -> Share:
    async with session(connection) as at:
        image = await find_image(at.api, wanted, connection.project)
        return await share_image(at.api, image.id, project, grant, offer=offer)


async def _unshared(connection: Connection, wanted: str, project: str) -> tuple[Share, RevokeShareRevokeImageShare]:
    async with session(connection) as at:
        image = await find_image(at.api, wanted, connection.project)
        known = share_with(await shares_of(at.api, image.id), project)
        if known is None:
            raise NotFound(
                f"{image.name} is not shared with {project}.", hint="Run `images shares` to list its shares."
            )
        payload = (await at.api.revoke_share(RevokeImageShareInput(share_id=known.id))).revoke_image_share
        return known, present(payload)


async def _listed(connection: Connection, wanted: str) -> Sequence[Share]:
    async with session(connection) as at:
        image = await find_image(at.api, wanted, connection.project)
        return await shares_of(at.api, image.id)
