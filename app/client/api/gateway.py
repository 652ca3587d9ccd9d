"""Speaks GraphQL over HTTP with the gateway. Every failure becomes an error of `app.client.errors`."""

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

# The gateway sends a heartbeat every 15 s: after three missing ones the connection counts as dead.
_SILENCE_SECONDS = 45
_TIMEOUT = httpx.Timeout(60, connect=10)
_ANSWER = "application/graphql-response+json, application/json;q=0.9"

Given = TypeVar("Given")


class Api(Client):
    """The gateway's GraphQL endpoint for one user: a method for each document in `app/client/documents`.

    Each method raises ClientError; mutations also raise it for their userErrors.
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

        Ends when the subscription is complete. Raises NotReachable if the stream ends earlier (subscribe again),
        NoEventStream if the response is not an event stream, and ClientError for the errors of the gateway.
        """
        request = self._request(query, variables, accept="text/event-stream")
        async with self._stream(request) as response:
            async with aclosing(_events(response)) as events:
                async for event in events:
                    if event.name == "complete":
                        return
                    if event.name == "next":
                        yield _data_of(_json(event.data.encode()))
        raise NotReachable("The event stream was interrupted.")

    def parsed(self, model: type[Model], data: dict[str, Any]) -> Model:
        """The data of a response as a model. Raises NoAnswer if it does not match the schema."""
        try:
            return model.model_validate(data)
        except ValidationError as error:
            raise _unreadable(error) from None

    def _request(self, document: str, variables: Mapping[str, object], accept: str) -> httpx.Request:
        # ASCII only: a name that is not valid Unicode is sent as an escape, and the gateway checks it.
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
    """An HTTP client for any address. It adds no token by itself, and follows no redirects."""
    return httpx.AsyncClient(headers={"User-Agent": "images"}, timeout=_TIMEOUT)


def present(value: Given | None) -> Given:
    """A value that is null only in a response with errors. Raises NoAnswer if it is null."""
    if value is None:
        raise NoAnswer("The gateway's response lacks the requested data.")
    return value


def _as_input(value: object) -> dict[str, Any]:
    """An input object with the fields that were set: null is different from an absent field."""
    if not isinstance(value, BaseModel):
        raise TypeError(f"{type(value).__name__} is not an input.")
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
        f"The gateway's response does not match the schema at {place}.",
        hint="Install the version of `images` that the gateway runs.",
    )


async def _events(response: httpx.Response) -> AsyncGenerator[Event, None]:
    parser = EventParser()
    async for chunk in response.aiter_bytes():
        for event in parser.feed(chunk):
            yield event


async def _require_events(response: httpx.Response) -> None:
    """Raises ClientError if the response is not an event stream."""
    if response.status_code == 200 and response.headers.get("content-type", "").startswith("text/event-stream"):
        return
    await response.aread()
    if response.status_code in (200, 404, 405, 406, 415):
        raise NoEventStream("The gateway, or a proxy in front of it, does not send an event stream.")
    _data_of(_answer_of(response))


def _answer_of(response: httpx.Response) -> Any:
    """The GraphQL response in an HTTP response of any status. Raises ClientError if there is none."""
    status = response.status_code
    if status in (429, 502, 503, 504):
        raise Overloaded(f"The gateway can't serve the request now (HTTP {status}).")
    try:
        return _json(response.content)
    except NoAnswer:
        raise _without_answer(response) from None


def _without_answer(response: httpx.Response) -> ClientError:
    status, address = response.status_code, response.request.url
    if status in (401, 403):
        return NotAllowed(f"{address} returned HTTP {status}.", hint="Check the token.")
    if status >= 500:
        return Overloaded(f"{address} returned HTTP {status}.")
    hint = "Check the gateway's address."
    if response.has_redirect_location:
        hint = f"Check the gateway's address, which redirects to {response.headers['location']}."
    return NoAnswer(f"{address} is not a GraphQL endpoint: it returned HTTP {status}.", hint=hint)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise NoAnswer("The gateway's response is not valid JSON.") from None


def _data_of(answer: Any) -> dict[str, Any]:
    """The data of a GraphQL response. Raises ClientError for the first of its errors."""
    if not isinstance(answer, dict):
        raise NoAnswer("The gateway did not return a GraphQL response.")
    if errors := answer.get("errors"):
        raise _error_in(errors[0])
    data = answer.get("data")
    if not isinstance(data, dict):
        raise NoAnswer("The gateway's response contains no data.")
    return data


def _error_in(error: Any) -> ClientError:
    if not isinstance(error, dict):
        return NoAnswer("The gateway's response contains an error that can't be read.")
    extensions = error.get("extensions") or {}
    return error_of(
        extensions.get("code"),
        str(error.get("message")),
        extensions.get("hint"),
        correlationId=extensions.get("correlationId"),
    )


def _not_reachable(address: str, error: httpx.TransportError) -> NotReachable:
    reason = str(error) or type(error).__name__
    return NotReachable(f"{address} can't be reached: {reason}.", hint="Check that the gateway runs, and its address.")
