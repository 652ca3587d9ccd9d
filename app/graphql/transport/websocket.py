"""Subscriptions on a socket: the graphql-transport-ws protocol.

https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md. Strawberry's handler keeps the protocol's state. This
module adds authentication, checks messages, and ends only the operation if an operation is refused.

A socket is closed with 4403 if its token is refused or has expired: clients of this protocol then reconnect with new
parameters, which they don't after 4401.
"""

import asyncio
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, aclosing, suppress
from datetime import timedelta
from typing import Any, cast

import structlog
from starlette.websockets import WebSocket
from strawberry.http.exceptions import (
    WebSocketDisconnected,
)
from strawberry.schema import BaseSchema
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import (
    BaseGraphQLTransportWSHandler,
    Operation,
)
from strawberry.subscriptions.protocols.graphql_transport_ws.types import (
    CompleteMessage,
    ConnectionInitMessage,
    Message,
    NextMessage,
    NextMessagePayload,
    SubscribeMessage,
)

from app.errors import NotAuthenticated
from app.graphql.admission import Admission, caller_key, client_address
from app.graphql.limits.query_limits import QueryLimits
from app.graphql.masking import CodedError
from app.graphql.protocols import (
    Alarm,
    Authenticate,
    MakeContext,
    OperationContext,
    SetAlarm,
    StreamEnd,
    bearer_token,
)
from app.graphql.transport.execution import OperationRequest, answers, refusal
from app.graphql.transport.http import RequestRefused, operation_in
from app.graphql.transport.socket_messages import SocketMessages
from app.sizes import counted
from app.viewer import ANONYMOUS, Viewer

INTERNAL_ERROR = 1011
# The protocol's own code for "Too many initialisation requests", after which clients don't reconnect by themselves.
TOO_MANY_REQUESTS = 4429
CLOSE_CODES = {
    StreamEnd.TOKEN_EXPIRED: (4403, "Token expired"),
    StreamEnd.SHUTTING_DOWN: (1001, "Going away"),
}

# Each message of an operation repeats its id.
_ID_CHARACTERS = 256

log = structlog.get_logger()


class SubscriptionSocket(BaseGraphQLTransportWSHandler[OperationContext, None]):
    """One connection. `handle` serves it until it is closed."""

    def __init__(
        self,
        socket: WebSocket,
        schema: BaseSchema,
        *,
        authenticate: Authenticate,
        make_context: MakeContext,
        limits: QueryLimits,
        admission: Admission,
        set_alarm: SetAlarm,
        connection_init_seconds: float,
    ) -> None:
        super().__init__(
            view=None,  # type: ignore[arg-type]  # used only for connection_init, which is handled here
            websocket=SocketMessages(socket, limits),
            context=None,  # type: ignore[arg-type]  # every operation has its own context
            root_value=None,
            schema=schema,
            connection_init_wait_timeout=timedelta(seconds=connection_init_seconds),
        )
        self._socket = socket
        self._authenticate = authenticate
        self._make_context = make_context
        self._limits = limits
        self._admission = admission
        # The slot among the caller's sockets, released when the socket is closed.
        self._slot = ExitStack()
        self._set_alarm = set_alarm
        self._caller = ANONYMOUS
        self._expiry: Alarm | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def caller(self) -> Viewer:
        """The caller; anonymous until connection_init has authenticated them."""
        return self._caller

    def end(self, end: StreamEnd) -> None:
        """Close the socket soon, with the reason in the close frame."""
        self._ending = asyncio.create_task(self.websocket.close(*CLOSE_CODES[end]))

    async def shutdown(self) -> None:
        """Called when the socket is closed: stops its operations."""
        if self._expiry:
            self._expiry.cancel()
        try:
            await super().shutdown()
        finally:
            self._slot.close()

    async def handle_message(self, message: Message) -> None:
        """Handle a message, or close the socket with 4400 if it is not one of the protocol."""
        if _is_well_formed(message):
            await super().handle_message(message)
        else:
            await self.handle_invalid_message("Invalid message")

    async def handle_connection_init(self, message: ConnectionInitMessage) -> None:
        """Authenticate the caller by the Authorization in the payload, or else in the handshake."""
        if self.connection_init_received:
            return await self.websocket.close(4429, "Too many initialisation requests")
        self.connection_init_received = True
        payload = message.get("payload") or {}
        # A browser can't send this as a header of the handshake.
        self._socket.state.project_id = _named("x-project", payload)
        if self.connection_init_timeout_task:
            self.connection_init_timeout_task.cancel()
        async with self._admission.greetings.taken(client_address(self._socket)):
            await self._greet(payload)

    async def _greet(self, payload: Mapping[str, object]) -> None:
        try:
            self._caller = await self._authenticate(self._token(payload))
        except NotAuthenticated as error:
            return await self.websocket.close(4403, str(error) or "Forbidden")
        except Exception:
            log.exception("websocket.authentication_failed")
            return await self.websocket.close(INTERNAL_ERROR, "Internal error")
        try:
            self._take_slot(self._caller)
        except CodedError as error:
            return await self.websocket.close(TOO_MANY_REQUESTS, _reason_of(error))
        await self.send_message({"type": "connection_ack"})
        self.connection_acknowledged = True
        if self._caller.expires_at:
            self._expiry = self._set_alarm(self._caller.expires_at, lambda: self.end(StreamEnd.TOKEN_EXPIRED))

    async def handle_subscribe(self, message: SubscribeMessage) -> None:
        """Start an operation, or answer with an error if it is refused."""
        error = self._refuse(message) if self.connection_acknowledged else None
        if error and message["id"] not in self.operations:
            answer = refusal(error, uuid.uuid4().hex)
            await self.send_message({"id": message["id"], "type": "error", "payload": answer.body["errors"]})
        else:
            await super().handle_subscribe(message)

    async def run_operation(self, operation: Operation[OperationContext, None]) -> None:
        """Run an operation and send its answers."""
        correlation_id = uuid.uuid4().hex
        try:
            context = self._make_context(self._socket, self._caller, correlation_id)
            if self._caller.anonymous:
                self._admission.anonymous.admit(self._socket)
            request = OperationRequest(operation.query, operation.variables, operation.operation_name or None)
            key = caller_key(self._caller, self._socket)
            with self._admission.subscription(key, request.characters):
                async with self._admission.turns.taken(key) as context.turn:
                    await self._send_answers(operation, request, context)
        except WebSocketDisconnected:
            pass
        except Exception as error:
            await self._send_errors(operation, refusal(error, correlation_id).body["errors"])

    async def _send_answers(
        self, operation: Operation[OperationContext, None], request: OperationRequest, context: OperationContext
    ) -> None:
        async with aclosing(answers(self.schema, request, context)) as stream:
            async for answer in stream:
                if not answer.executed:
                    return await self._send_errors(operation, answer.body["errors"])
                payload = cast(NextMessagePayload, answer.body)
                await operation.send_operation_message(NextMessage(id=operation.id, type="next", payload=payload))
        await operation.send_operation_message(CompleteMessage(id=operation.id, type="complete"))

    async def _send_errors(self, operation: Operation[OperationContext, None], errors: list[Any]) -> None:
        with suppress(WebSocketDisconnected):
            await operation.send_operation_message({"id": operation.id, "type": "error", "payload": errors})

    def _take_slot(self, caller: Viewer) -> None:
        """Raises CodedError if the caller has too many sockets, or sends too many requests without a token."""
        if caller.anonymous:
            self._admission.anonymous.admit(self._socket)
        self._slot.enter_context(self._admission.sockets.taken(caller_key(caller, self._socket)))

    def _refuse(self, message: SubscribeMessage) -> CodedError | None:
        limit = self._limits.subscriptions_per_connection
        if len(self.operations) >= limit:
            text = f"This connection has {counted(limit, 'operation')} running, and more are not allowed."
            return CodedError(text, "TOO_MANY_SUBSCRIPTIONS", limit=limit)
        try:
            operation_in(message["payload"], self._limits)
        except RequestRefused as refused:
            return refused.as_error()
        return None

    def _token(self, payload: Mapping[str, object]) -> str | None:
        given = _named("authorization", payload)
        return bearer_token(self._socket.headers.get("authorization") if given is None else given)


def _named(header: str, payload: Mapping[str, object]) -> str | None:
    """The value in the payload of connection_init under the name of a header, in upper or lower case; None without."""
    given = (value for name, value in payload.items() if name.lower() == header and value is not None)
    return next((str(value) for value in given), None)


def _is_well_formed(message: object) -> bool:
    """Whether a message has the form that its type requires. The payload of `subscribe` is checked later."""
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return False
    match message["type"]:
        case "subscribe":
            return _has_id(message) and isinstance(message.get("payload"), dict)
        case "complete":
            return _has_id(message)
        case _:
            return isinstance(message.get("payload"), dict | None)


def _has_id(message: dict[str, object]) -> bool:
    given = message.get("id")
    return isinstance(given, str) and 0 < len(given) <= _ID_CHARACTERS


def _reason_of(error: CodedError) -> str:
    details = error.extensions or {}
    return f"{details['code']}: {details['hint']}"
