"""Waits until an image is ACTIVE or in ERROR."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from app.client.api import documents
from app.client.api.catalogue import image_by_id
from app.client.api.gateway import Api
from app.client.errors import ClientError, NoEventStream, NotFound, NotReachable
from app.client.patience import Patience, Trouble
from app.client.terminal.reporting import Reporter

SETTLED = frozenset({"ACTIVE", "ERROR"})
_POLL_SECONDS = 2.0


async def settled(
    api: Api, image_id: str, reporter: Reporter, patience: Patience, poll_seconds: float = _POLL_SECONDS
) -> dict[str, Any]:
    """The image as it settled; `reporter` is shown what becomes of it until then.

    Listens to the subscription, and asks every `poll_seconds` where no stream of events gets through.
    Raises ClientError; NotFound when the image is deleted.
    """
    trouble = Trouble(patience)
    while True:
        try:
            async with aclosing(_states(api, image_id)) as states:
                async for image in states:
                    trouble.over()
                    reporter.show(image)
                    if image["status"] in SETTLED:
                        return image
            await trouble.rest(NotReachable("The stream of events ended too early."))
        except NoEventStream:
            return await _asked(api, image_id, reporter, patience, poll_seconds)
        except ClientError as error:
            if not error.temporary:
                raise
            await trouble.rest(error)


async def _states(api: Api, image_id: str) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(api.subscribe(documents.IMAGE_UNTIL_SETTLED, id=image_id)) as answers:
        async for data in answers:
            if data["image"] is None:
                raise NotFound("The image has been deleted.")
            yield data["image"]


async def _asked(
    api: Api, image_id: str, reporter: Reporter, patience: Patience, poll_seconds: float
) -> dict[str, Any]:
    while True:
        image = await patience.until_done(lambda: image_by_id(api, image_id))
        reporter.show(image)
        if image["status"] in SETTLED:
            return image
        await asyncio.sleep(poll_seconds)
