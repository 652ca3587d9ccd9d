"""Subscriptions in the body of a response: as server-sent events, or as multipart parts.

SSE: the GraphQL over SSE protocol, distinct connections mode, and https://html.spec.whatwg.org, section 9.2.
Multipart: Apollo's multipart protocol for subscriptions over HTTP, subscriptionSpec 1.0.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from app.graphql.json_values import encode
from app.graphql.protocols import OperationContext, StreamEnd
from app.graphql.transport.execution import Answer
from app.viewer import Viewer


class StreamEncoding(Protocol):
    """Encodes answers into pieces of a response that a client can parse as they arrive."""

    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def opening(self) -> str: ...
    @property
    def heartbeat(self) -> str: ...
    @property
    def completion(self) -> str: ...
    def item(self, answer: Answer, event_id: str | None) -> str: ...
    def ending(self, end: StreamEnd, correlation_id: str) -> str:
        """The last piece if the gateway, not the subscription, ends the stream."""


class EventStreamEncoding:
    """Server-sent events. `Last-Event-ID` resumes after one that has an id."""

    # The last header disables nginx's buffering of events.
    headers: Mapping[str, str] = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
    }
    opening = ":\n\n"
    heartbeat = ":\n\n"
    completion = "event: complete\ndata:\n\n"

    def item(self, answer: Answer, event_id: str | None) -> str:
        # An id with a line break would inject lines.
        line = f"id: {event_id}\n" if event_id and event_id.isprintable() else ""
        return f"{line}event: next\ndata: {answer.json()}\n\n"

    def ending(self, end: StreamEnd, correlation_id: str) -> str:
        """Clients reconnect if a stream just stops, but not if it is completed."""
        if end is StreamEnd.SHUTTING_DOWN:
            return ""
        body = {"data": None, "errors": [_ending_error(end, correlation_id)]}
        return self.item(Answer(body, executed=True), None) + self.completion


class MultipartEncoding:
    """Parts of multipart/mixed, each followed by the next delimiter, which marks it as complete."""

    headers: Mapping[str, str] = {
        "content-type": 'multipart/mixed;boundary="graphql";subscriptionSpec=1.0',
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
    }
    opening = "--graphql"
    completion = "--\r\n"

    @property
    def heartbeat(self) -> str:
        return self._part({})

    def item(self, answer: Answer, event_id: str | None) -> str:
        return self._part({"payload": answer.body})

    def ending(self, end: StreamEnd, correlation_id: str) -> str:
        errors = [_ending_error(end, correlation_id)]
        return self._part({"payload": None, "errors": errors}) + self.completion

    def _part(self, content: object) -> str:
        return f"\r\nContent-Type: application/json\r\n\r\n{encode(content)}\r\n--graphql"


class AnswerStream:
    """An ASGI response that writes answers as they arrive, until they end, the client disconnects, or `end` is called.

    After `heartbeat_seconds` without an answer, it writes a heartbeat, so that no proxy closes the connection.
    """

    def __init__(
        self,
        answers: AsyncGenerator[Answer, None],
        encoding: StreamEncoding,
        context: OperationContext,
        heartbeat_seconds: float,
    ) -> None:
        self._answers = answers
        self._encoding = encoding
        self._context = context
        self._heartbeat_seconds = heartbeat_seconds
        self._end: asyncio.Future[StreamEnd] = asyncio.get_running_loop().create_future()

    @property
    def caller(self) -> Viewer:
        """The caller who reads the stream."""
        return self._context.viewer

    def end(self, end: StreamEnd) -> None:
        """End the stream soon, and send the reason to the client."""
        if not self._end.done():
            self._end.set_result(end)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {**self._encoding.headers, "x-correlation-id": self._context.correlation_id}
        raw_headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw_headers})
        gone = asyncio.create_task(disconnected(receive))
        try:
            async with aclosing(self._answers):
                await self._write_answers(send, gone)
            await _write(send, "", more=False)
        finally:
            gone.cancel()

    async def _write_answers(self, send: Send, gone: asyncio.Task[None]) -> None:
        await _write(send, self._encoding.opening)
        upcoming = asyncio.create_task(anext(self._answers, None))
        try:
            while not gone.done():
                if self._end.done():
                    ending = self._encoding.ending(self._end.result(), self._context.correlation_id)
                    return await _write(send, ending)
                if not upcoming.done():
                    await self._wait(upcoming, gone, send)
                    continue
                answer = upcoming.result()
                if answer is None:
                    return await _write(send, self._encoding.completion)
                await _write(send, self._encoding.item(answer, self._context.event_id))
                upcoming = asyncio.create_task(anext(self._answers, None))
        finally:
            await _cancelled(upcoming)

    async def _wait(self, upcoming: asyncio.Task[Answer | None], gone: asyncio.Task[None], send: Send) -> None:
        events: set[asyncio.Future[Any]] = {upcoming, gone, self._end}
        done, _ = await asyncio.wait(events, timeout=self._heartbeat_seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            await _write(send, self._encoding.heartbeat)


async def _write(send: Send, text: str, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": more})


async def disconnected(receive: Receive) -> None:
    """Return when the client has disconnected. Drops the rest of its body."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(task: asyncio.Task[Answer | None]) -> None:
    """Cancel a task and wait for its end: a generator can't be closed while it runs."""
    task.cancel()
    await asyncio.wait({task})


def _ending_error(end: StreamEnd, correlation_id: str) -> dict[str, object]:
    return {"message": end.value, "extensions": {"code": end.name, "correlationId": correlation_id}}
