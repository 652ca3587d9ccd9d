"""Waits until an image is ACTIVE or in ERROR, or until a server is what was requested."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from app.client.api.catalogue import image_by_id
from app.client.api.gateway import Api
from app.client.errors import NoEventStream, NotFound, NotReachable
from app.client.generated.enums import ImageStatus
from app.client.generated.fragments import ImageFields
from app.client.retrying import RetryPolicy, succeeded
from app.client.terminal.reporting import Reporter

State = TypeVar("State")

SETTLED = frozenset({ImageStatus.ACTIVE, ImageStatus.ERROR})
_POLL_SECONDS = 2.0


async def settled(
    api: Api, image_id: str, reporter: Reporter, policy: RetryPolicy, poll_seconds: float = _POLL_SECONDS
) -> ImageFields:
    """The image when it is ACTIVE or in ERROR. Shows `reporter` each state until then.

    Subscribes to the image, or polls it every `poll_seconds` if the subscription returns no event stream.
    Raises ClientError; NotFound if the image is deleted.
    """

    def is_settled(image: ImageFields) -> bool:
        reporter.show(image)
        return image.status in SETTLED

    try:
        return await first_state(lambda: _states(api, image_id), is_settled, policy)
    except NoEventStream:
        return await _polled(api, image_id, is_settled, policy, poll_seconds)


async def first_state(
    states: Callable[[], AsyncGenerator[State, None]], settled: Callable[[State], bool], policy: RetryPolicy
) -> State:
    """The first state of a subscription that is `settled`. Subscribes again when the stream breaks.

    Raises ClientError; NoEventStream if there is no stream.
    """
    async for attempt in policy.attempts():
        with attempt:
            async with aclosing(states()) as seen:
                async for state in seen:
                    succeeded(attempt)
                    if settled(state):
                        return state
            raise NotReachable("The event stream ended too early.")
    raise AssertionError("the last attempt returns or raises")


async def _states(api: Api, image_id: str) -> AsyncGenerator[ImageFields, None]:
    async with aclosing(api.settling(image_id)) as answers:
        async for data in answers:
            if data.image is None:
                raise NotFound("The image has been deleted.")
            yield data.image


async def _polled(
    api: Api, image_id: str, is_settled: Callable[[ImageFields], bool], policy: RetryPolicy, poll_seconds: float
) -> ImageFields:
    while True:
        image = await policy.until_done(lambda: image_by_id(api, image_id))
        if is_settled(image):
            return image
        await asyncio.sleep(poll_seconds)
