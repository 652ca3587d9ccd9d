"""Waits until an image is ACTIVE or in ERROR."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from app.client.api.catalogue import image_by_id
from app.client.api.gateway import Api
from app.client.errors import NoEventStream, NotFound, NotReachable
from app.client.generated.enums import ImageStatus
from app.client.generated.fragments import ImageFields
from app.client.retrying import RetryPolicy, succeeded
from app.client.terminal.reporting import Reporter

SETTLED = frozenset({ImageStatus.ACTIVE, ImageStatus.ERROR})
_POLL_SECONDS = 2.0


async def settled(
    api: Api, image_id: str, reporter: Reporter, policy: RetryPolicy, poll_seconds: float = _POLL_SECONDS
) -> ImageFields:
    """The image when it is ACTIVE or in ERROR. Shows `reporter` each state until then.

    Subscribes to the image, or polls it every `poll_seconds` if the subscription returns no event stream.
    Raises ClientError; NotFound if the image is deleted.
    """
    try:
        return await _subscribed(api, image_id, reporter, policy)
    except NoEventStream:
        return await _polled(api, image_id, reporter, policy, poll_seconds)


async def _subscribed(api: Api, image_id: str, reporter: Reporter, policy: RetryPolicy) -> ImageFields:
    async for attempt in policy.attempts():
        with attempt:
            async with aclosing(_states(api, image_id)) as states:
                async for image in states:
                    succeeded(attempt)
                    reporter.show(image)
                    if image.status in SETTLED:
                        return image
            raise NotReachable("The event stream ended too early.")
    raise AssertionError("the last attempt returns or raises")


async def _states(api: Api, image_id: str) -> AsyncGenerator[ImageFields, None]:
    async with aclosing(api.settling(image_id)) as answers:
        async for data in answers:
            if data.image is None:
                raise NotFound("The image has been deleted.")
            yield data.image


async def _polled(api: Api, image_id: str, reporter: Reporter, policy: RetryPolicy, poll_seconds: float) -> ImageFields:
    while True:
        image = await policy.until_done(lambda: image_by_id(api, image_id))
        reporter.show(image)
        if image.status in SETTLED:
            return image
        await asyncio.sleep(poll_seconds)
