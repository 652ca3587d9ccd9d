"""`images copy`"""

import secrets
from dataclasses import dataclass
from typing import Annotated

import typer

from app.client.api.advice import advising
from app.client.api.catalogue import find_image, find_project
from app.client.api.connection import Connection
from app.client.api.gateway import Api, present
from app.client.api.servers import find_server
from app.client.api.settling import settled
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.errors import ImageFailed, Misconfigured
from app.client.generated.enums import ImageStatus
from app.client.generated.fragments import ImageFields
from app.client.generated.input_types import CopyImageInput, CreateImageInput, ImageSourceInput, ServerImageInput
from app.client.retrying import RetryPolicy
from app.client.terminal.output import Output
from app.client.terminal.reporting import reporter_for
from app.client.terminal.showing import image_text


def copy(
    source: Annotated[
        str | None, typer.Argument(metavar="[IMAGE]", help="An image, by id or name.", show_default=False)
    ] = None,
    copy_name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Name of the copy.", show_default=False)
    ] = None,
    from_server: Annotated[
        str | None, typer.Option(metavar="SERVER", help="Make an image of this server's boot volume, by id or name.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new image, instead of NAME.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the image of a server is ACTIVE.")] = True,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Key for retries: the same key returns the same copy.")
    ] = None,
    patience: options.PatienceSeconds = 120,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Pin an image: create a copy in the project that outlives the original. Or make an image of a server.

    An image is copied without its bytes, and the copy is ACTIVE at once. A server keeps running while its boot volume
    is captured as it is at one moment. Prints the new image.
    """
    with command(as_json=as_json) as output:
        wish = _wish(source, copy_name, from_server, name, idempotency_key or secrets.token_hex(16))
        act = _made(options.connection_of(connection, project), output, wish, wait, RetryPolicy(patience))
        made = run(act, resumed_by="`images list` shows the image if it was created.")
        if as_json:
            output.json(made)
        else:
            output.line(image_text(made))


@dataclass(frozen=True, slots=True)
class _Wish:
    """The image to create: `wanted` is the image to copy or, if `of_server`, the server to capture."""

    wanted: str
    of_server: bool
    name: str
    key: str


def _wish(source: str | None, copy_name: str | None, server: str | None, name: str | None, key: str) -> _Wish:
    """What the arguments and options ask for. Raises Misconfigured."""
    # With a server, the only argument can be the name.
    positional = [one for one in (source, copy_name) if one is not None]
    wanted = server if server is not None else (positional.pop(0) if positional else None)
    names = positional if name is None else [name, *positional]
    if wanted is None or len(names) != 1:
        raise Misconfigured(
            "One image or server and one name are needed.",
            hint="Run `images copy IMAGE NAME` or `images copy --from-server SERVER --name NAME`.",
        )
    return _Wish(wanted, server is not None, names[0], key)


async def _made(connection: Connection, output: Output, wish: _Wish, wait: bool, policy: RetryPolicy) -> ImageFields:
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        given = CreateImageInput(
            project_id=project_id,
            name=wish.name,
            source=await _source(at.api, wish, project_id),
            idempotency_key=wish.key,
        )
        with advising({}, options.IMAGE_ADVICE):
            # The key makes it safe to repeat the request.
            payload = (await policy.until_done(lambda: at.api.copy_image(given))).create_image
        image = present(present(payload).image)
        if wait and wish.of_server:
            with reporter_for(output) as reporter:
                image = await settled(at.api, image.id, reporter, policy)
    if image.status == ImageStatus.ERROR:
        raise ImageFailed.of(image)
    return image


async def _source(api: Api, wish: _Wish, project_id: str) -> ImageSourceInput:
    if wish.of_server:
        server = await find_server(api, wish.wanted, project_id)
        return ImageSourceInput(server=ServerImageInput(server_id=server.id))
    image = await find_image(api, wish.wanted, project_id)
    return ImageSourceInput(image=CopyImageInput(image_id=image.id))
