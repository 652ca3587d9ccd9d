"""`images watch`"""

from dataclasses import dataclass
from typing import Annotated

import typer

from app.client.api.catalogue import find_image, find_project, image_by_id
from app.client.api.connection import Connection
from app.client.api.settling import SETTLED
from app.client.api.watching import Watched, follow, missed, newest_cursor
from app.client.commands import options
from app.client.commands.session import Session, command, run, session
from app.client.errors import ImageFailed, Interrupted, Misconfigured, NotFound
from app.client.feed import Deleted, Item, ResyncRequired, StatusChanged
from app.client.generated.enums import ImageStatus
from app.client.generated.image import ImageImage
from app.client.retrying import RetryPolicy
from app.client.terminal.output import Output
from app.client.terminal.showing_events import event_text


def watch(
    image: Annotated[str | None, typer.Argument(help="Only this image, by id or name.", show_default="all")] = None,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Continue after this cursor.", show_default="from now on")
    ] = None,
    until_settled: Annotated[
        bool, typer.Option("--until-settled", help="End when the image is ACTIVE (exit code 0) or in ERROR (1).")
    ] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Include progress.")] = True,
    patience: options.PatienceSeconds = 300,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Print events of images, servers and volumes as they happen, one line each; with --json, one line of JSON each."""
    with command(as_json=as_json) as output:
        if until_settled and image is None:
            raise Misconfigured("--until-settled needs an image.", hint="Add the id or name of an image.")
        where = options.connection_of(connection, project)
        watching = _Watching(output, RetryPolicy(patience), progress, until_settled, after)
        try:
            run(watching.watch(where, image))
        except Interrupted as interrupted:
            hint = f"Continue with --after {watching.newest}." if watching.newest else None
            raise Interrupted(interrupted.message, hint=hint, cursor=watching.newest) from None


@dataclass(slots=True)
class _Watching:
    """Prints a feed. `newest` is the cursor of the last item that was printed."""

    output: Output
    policy: RetryPolicy
    progress: bool
    until_settled: bool
    newest: str | None

    async def watch(self, connection: Connection, wanted: str | None) -> None:
        """Print events, without end unless `until_settled`. Raises ClientError; ImageFailed if it is in ERROR."""
        async with session(connection) as at:
            image = await find_image(at.api, wanted, connection.project) if wanted is not None else None
            # The feed of the image's own project contains its events.
            project_id = image.project.id if image and image.project else None
            after = self.newest or await newest_cursor(at.api)
            watched = Watched(
                project_id or await find_project(at.api, connection.project),
                image.id if image else None,
                after,
                self.progress,
            )
            # The image is read after the cursor, so later events come after the cursor in the feed.
            if self.until_settled and image and await self._settled(at, image.id):
                async for event in missed(at.api, watched):
                    self._print(event)
                return await self._end(at, image.id)
            await self._follow(at, watched)

    async def _follow(self, at: Session, watched: Watched) -> None:
        async for item in follow(at.api, watched, self.policy):
            self._print(item)
            if self.until_settled and watched.subject_id and await self._may_be_over(at, item, watched.subject_id):
                return await self._end(at, watched.subject_id)

    async def _may_be_over(self, at: Session, item: Item, image_id: str) -> bool:
        if isinstance(item, Deleted):
            raise NotFound("The image has been deleted.")
        return isinstance(item, StatusChanged | ResyncRequired) and await self._settled(at, image_id)

    async def _settled(self, at: Session, image_id: str) -> bool:
        return (await self._read(at, image_id)).status in SETTLED

    async def _end(self, at: Session, image_id: str) -> None:
        image = await self._read(at, image_id)
        if image.status == ImageStatus.ERROR:
            raise ImageFailed.of(image)

    async def _read(self, at: Session, image_id: str) -> ImageImage:
        return await self.policy.until_done(lambda: image_by_id(at.api, image_id))

    def _print(self, item: Item) -> None:
        self.newest = item.cursor
        if self.output.as_json:
            self.output.json(item, indent=None)
        elif isinstance(item, ResyncRequired):
            self.output.note(event_text(item))
        else:
            self.output.line(event_text(item))
