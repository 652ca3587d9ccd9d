"""Talks GraphQL over HTTP to the gateway; every failure becomes one of the errors of `app.client.errors`."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from app.client.api.connection import Connection
from app.client.api.sse import Event, EventParser
from app.client.errors import ClientError, NoAnswer, NoEventStream, NotAllowed, NotReachable, Overloaded, error_of
from app.client.generated.base_client import Model
from app.client.generated.base_model import UNSET
from app.client.generated.client import Client

# The gateway sends a heartbeat every 15 s: after three of them nobody is there any more.
_SILENCE_SECONDS = 45
_TIMEOUT = httpx.Timeout(60, connect=10)
_ANSWER = "application/graphql-response+json, application/json;q=0.9"

Given = TypeVar("Given")


class Api(Client):
    """The gateway's GraphQL endpoint, as one user: a method for each document in `app/client/documents`.

    Each raises ClientError, and a mutation for its userErrors too.
    """

    def __init__(self, connection: Connection, http: httpx.AsyncClient) -> None:
        self.endpoint = connection.graphql
        self._headers = {"Authorization": f"Bearer {connection.token}", "Content-Type": "application/json"}
        self._http = http

    async def execute(self, query: str, operation_name: str, variables: dict[str, object]) -> dict[str, Any]:
        """The data of a query or mutation. Raises ClientError."""
        request = self._request(query, variables, accept=_ANSWER)
        try:
            response = await self._http.send(request)
        except httpx.TransportError as error:
            raise _not_reachable(self.endpoint, error) from error
        data = _data_of(_answer_of(response))
        _require_no_mistakes(data)
        return data

    async def execute_ws(
        self, query: str, operation_name: str, variables: dict[str, object]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The data of each event of a subscription, over one stream of server-sent events.

        Ends when the subscription is complete. Raises NotReachable when the stream ends before that: subscribe
        again; NoEventStream when there is none to be had; and ClientError for what the gateway says.
        """
        request = self._request(query, variables, accept="text/event-stream")
        async with self._stream(request) as response:
            async with aclosing(_events(response)) as events:
                async for event in events:
                    if event.name == "complete":
                        return
                    if event.name == "next":
                        yield _data_of(_json(event.data.encode()))
        raise NotReachable("The stream of events broke off.")

    def parsed(self, model: type[Model], data: dict[str, Any]) -> Model:
        """The data of an answer as a model. Raises NoAnswer where it lacks what the schema promises."""
        try:
            return model.model_validate(data)
        except ValidationError as error:
            raise _unreadable(error) from None

    def _request(self, document: str, variables: Mapping[str, object], accept: str) -> httpx.Request:
        # Kept to ASCII: a name that is no proper Unicode travels as an escape, and the gateway judges it.
        sent = {name: value for name, value in variables.items() if value is not UNSET}
        body = json.dumps({"query": document, "variables": sent}, default=_as_input).encode()
        return self._http.build_request(
            "POST", self.endpoint, content=body, headers={**self._headers, "Accept": accept}, timeout=_TIMEOUT
        )

    @asynccontextmanager
    async def _stream(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        request.extensions["timeout"] = httpx.Timeout(_SILENCE_SECONDS, connect=10).as_dict()
        try:
            response = await self._http.send(request, stream=True)
            try:
                await _require_events(response)
                yield response
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            raise _not_reachable(self.endpoint, error) from error


def client() -> httpx.AsyncClient:
    """A client for any address: it sends nobody a token by itself, and follows no redirects."""
    return httpx.AsyncClient(headers={"User-Agent": "images"}, timeout=_TIMEOUT)


def present(value: Given | None) -> Given:
    """What an answer holds in any case, unless it also says why not. Raises NoAnswer when it holds nothing."""
    if value is None:
        raise NoAnswer("The gateway's answer lacks what was asked for.")
    return value


def _as_input(value: object) -> dict[str, Any]:
    """An input object with the fields that were set: null is not the same as nothing."""
    if not isinstance(value, BaseModel):
        raise TypeError(f"{type(value).__name__} is no input.")
    return value.model_dump(by_alias=True, exclude_unset=True)


def _require_no_mistakes(data: Mapping[str, Any]) -> None:
    """Raises ClientError for the first of a mutation's userErrors."""
    for payload in data.values():
        errors = payload.get("userErrors") if isinstance(payload, dict) else None
        if errors:
            first, shown = errors[0], errors if len(errors) > 1 else None
            raise error_of(first["code"], first["message"], first["hint"], field=first["field"], userErrors=shown)


def _unreadable(error: ValidationError) -> NoAnswer:
    place = ".".join(str(part) for part in error.errors(include_url=False, include_input=False)[0]["loc"])
    return NoAnswer(
        f"The gateway's answer does not fit its own schema, at {place}.",
        hint="Use the `images` command of the gateway's version.",
    )


async def _events(response: httpx.Response) -> AsyncGenerator[Event, None]:
    parser = EventParser()
    async for chunk in response.aiter_bytes():
        for event in parser.feed(chunk):
            yield event


async def _require_events(response: httpx.Response) -> None:
    """Raises what the answer says when it is not a stream of events."""
    if response.status_code == 200 and response.headers.get("content-type", "").startswith("text/event-stream"):
        return
    await response.aread()
    if response.status_code in (200, 404, 405, 406, 415):
        raise NoEventStream("The gateway, or something before it, sends no stream of events.")
    _data_of(_answer_of(response))


def _answer_of(response: httpx.Response) -> Any:
    """The GraphQL response in an HTTP response, whatever its status is."""
    status = response.status_code
    if status in (429, 502, 503, 504):
        raise Overloaded(f"The gateway can't answer now (HTTP {status}).")
    try:
        return _json(response.content)
    except NoAnswer:
        raise _without_answer(response) from None


def _without_answer(response: httpx.Response) -> ClientError:
    status, address = response.status_code, response.request.url
    if status in (401, 403):
        return NotAllowed(f"{address} answers HTTP {status}.", hint="Is IMAGES_TOKEN right?")
    if status >= 500:
        return Overloaded(f"{address} answers HTTP {status}.")
    hint = f"It leads to {response.headers['location']}." if response.has_redirect_location else None
    return NoAnswer(f"{address} is no GraphQL endpoint: it answers HTTP {status}.", hint=hint or "Is IMAGES_URL right?")


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise NoAnswer("The gateway's answer is not readable as JSON.") from None


def _data_of(answer: Any) -> dict[str, Any]:
    """The data of a GraphQL response. Raises ClientError for the first of its errors."""
    if not isinstance(answer, dict):
        raise NoAnswer("The gateway's answer is no GraphQL response.")
    if errors := answer.get("errors"):
        raise _told(errors[0])
    data = answer.get("data")
    if not isinstance(data, dict):
        raise NoAnswer("The gateway's answer holds no data.")
    return data


def _told(error: Any) -> ClientError:
    if not isinstance(error, dict):
        return NoAnswer("The gateway's answer holds an error that is not readable.")
    extensions = error.get("extensions") or {}
    return error_of(
        extensions.get("code"),
        str(error.get("message")),
        extensions.get("hint"),
        correlationId=extensions.get("correlationId"),
    )


def _not_reachable(address: str, error: httpx.TransportError) -> NotReachable:
    reason = str(error) or type(error).__name__
    return NotReachable(f"{address} can't be reached: {reason}.", hint="Does the gateway run? Is IMAGES_URL right?")
