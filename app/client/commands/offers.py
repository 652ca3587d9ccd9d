"""`images offers`, `images accept`, `images decline`"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from app.client.api.catalogue import find_project
from app.client.api.connection import Connection
from app.client.api.gateway import Api, present
from app.client.api.sharing import find_offer, offers_to
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.generated.fragments import ShareFields as Share
from app.client.generated.input_types import AcceptImageShareInput, DeclineImageShareInput
from app.client.terminal.showing_shares import share_text, show_offers

Offer = Annotated[
    str,
    typer.Argument(metavar="SHARE", help="Id of a share, or name of an image that is offered.", show_default=False),
]


def offers(
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """List the images that are offered to a project that you administer."""
    with command(as_json=as_json) as output:
        found = run(_offered(options.connection_of(connection, project)))
        if as_json:
            output.json(found)
        elif found:
            show_offers(output, found)
        else:
            output.note("No images are offered to the project.")


def accept(
    share: Offer,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Accept an image that is offered to the project. The project sees it from then on."""
    _answer(_accepted, share, project, connection, as_json)


def decline(
    share: Offer,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Decline an image that is offered to the project, or return one that was accepted."""
    _answer(_declined, share, project, connection, as_json)


Answer = Callable[[Api, str], Awaitable[Share]]


def _answer(answer: Answer, share: str, project: str | None, connection: Path | None, as_json: bool) -> None:
    with command(as_json=as_json) as output:
        answered = run(_answered(options.connection_of(connection, project), answer, share))
        if as_json:
            output.json(answered)
        else:
            output.line(share_text(answered))


async def _offered(connection: Connection) -> Sequence[Share]:
    async with session(connection) as at:
        return await offers_to(at.api, await find_project(at.api, connection.project))


async def _answered(connection: Connection, answer: Answer, wanted: str) -> Share:
    async with session(connection) as at:
        return await answer(at.api, await find_offer(at.api, wanted, connection.project))


async def _accepted(api: Api, share_id: str) -> Share:
    answer = await api.accept_share(AcceptImageShareInput(share_id=share_id))
    return present(present(answer.accept_image_share).share)


async def _declined(api: Api, share_id: str) -> Share:
    answer = await api.decline_share(DeclineImageShareInput(share_id=share_id))
    return present(present(answer.decline_image_share).share)
