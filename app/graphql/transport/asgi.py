"""GatewayGraphQL: the GraphQL endpoint as an ASGI application, over HTTP, WebSocket, SSE and multipart.

Unlike Strawberry's own view, it answers and refuses exactly as GraphQL over HTTP specifies, limits bodies and
documents, masks errors on every transport, and can end open streams and sockets.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.schema import BaseSchema
from strawberry.schema.exceptions import InvalidOperationTypeError
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.types.graphql import OperationType

from app.errors import NotAuthenticated
from app.graphql.admission import Admission, CallerLimits, caller_key
from app.graphql.limits.query_limits import QueryLimits
from app.graphql.masking import CodedError
from app.graphql.protocols import (
    Authenticate,
    MakeContext,
    OperationContext,
    SetAlarm,
    StreamEnd,
    bearer_token,
    correlation_id_of,
    ring_at,
)
from app.graphql.transport.execution import Answer, OperationRequest, answer_once, answers, refusal
from app.graphql.transport.http import RequestRefused, check_head, read_operation
from app.graphql.transport.media_types import MediaType, negotiate, wants_page
from app.graphql.transport.streams import AnswerStream, EventStreamEncoding, MultipartEncoding, disconnected
from app.graphql.transport.websocket import SubscriptionSocket
from app.graphql.uninterrupted import while_connected
from app.request_body import RequestBody, respond
from app.viewer import Viewer

Explorer = Callable[[Request], Awaitable[Response]]

_STATUS_BY_CODE = {"UNAUTHENTICATED": 401, "INTERNAL": 500}


class GatewayGraphQL(GraphQL[OperationContext, None]):
    """The endpoint. Mount it with Starlette; call `shutdown` before the server closes its connections.

    authenticate            returns the caller who holds a token, or the anonymous one
    make_context            creates the context of one operation
    explorer                the page for browsers; without one, they get JSON like every client
    allowed_origins         other origins whose pages may open a WebSocket ("*" for all)
    caller_limits           limits per caller
    heartbeat_seconds       how long a stream may be silent before it sends a heartbeat
    connection_init_seconds how long a socket may wait before it sends connection_init
    set_alarm               schedules the end of a token's validity; tests replace it
    """

    def __init__(
        self,
        schema: BaseSchema,
        *,
        authenticate: Authenticate,
        make_context: MakeContext,
        limits: QueryLimits | None = None,
        caller_limits: CallerLimits | None = None,
        explorer: Explorer | None = None,
        allowed_origins: Sequence[str] = (),
        heartbeat_seconds: float = 15.0,
        connection_init_seconds: float = 10.0,
        set_alarm: SetAlarm = ring_at,
    ) -> None:
        super().__init__(
            schema,
            graphql_ide=None,
            subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL,),
            allowed_origins=allowed_origins,
        )
        self._authenticate = authenticate
        self._make_context = make_context
        self._limits = limits or QueryLimits()
        self.admission = Admission(caller_limits or CallerLimits())
        self._explorer = explorer
        self._heartbeat_seconds = heartbeat_seconds
        self._connection_init_seconds = connection_init_seconds
        self._set_alarm = set_alarm
        self._open: dict[AnswerStream | SubscriptionSocket, asyncio.Future[None]] = {}
        self._shutting_down = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._serve_socket(WebSocket(scope, receive, send))
        else:
            request = Request(scope, receive)
            body = RequestBody(request, receive)
            await respond(await self._response(request, body), body, scope, receive, send)

    async def shutdown(self, grace_seconds: float = 2.0) -> None:
        """End every stream and close every socket (1001); wait up to `grace_seconds` for them to close.

        Call it before the server closes its connections: the server would close sockets with 1012, and would wait for
        streams without end.
        """
        self._shutting_down = True
        for connection in list(self._open):
            connection.end(StreamEnd.SHUTTING_DOWN)
        if self._open:
            await asyncio.wait(set(self._open.values()), timeout=grace_seconds)

    def end_invalid(self, invalid: Callable[[Viewer], bool]) -> None:
        """End the streams and sockets of every caller for whom `invalid` returns true."""
        for connection in list(self._open):
            if invalid(connection.caller):
                connection.end(StreamEnd.TOKEN_EXPIRED)

    async def _response(self, request: Request, body: RequestBody) -> ASGIApp:
        correlation_id = correlation_id_of(request)
        accept = ",".join(request.headers.getlist("accept"))
        if self._explorer and request.method == "GET" and wants_page(accept):
            return await self._explorer(request)
        media = negotiate(accept)
        try:
            return await self._answer(request, body, media, correlation_id)
        except RequestRefused as refused:
            return _refused(refused, media, correlation_id)
        except ClientDisconnect:
            # The client has disconnected, so this response is never read.
            return Response(status_code=400)
        except Exception as error:
            return _json_response(refusal(error, correlation_id), MediaType.JSON, correlation_id)

    async def _answer(
        self, request: Request, body: RequestBody, media: MediaType | None, correlation_id: str
    ) -> ASGIApp:
        """Answer a request. Everything in its head is checked before its body is read."""
        if request.method not in ("GET", "POST"):
            message = "Send GraphQL requests by GET or POST."
            raise RequestRefused(405, "METHOD_NOT_ALLOWED", message, headers={"Allow": "GET, POST"})
        if media is None:
            message = f"Accept one of {', '.join(MediaType)} (with subscriptionSpec=1.0)."
            raise RequestRefused(406, "NOT_ACCEPTABLE", message)
        viewer = await self._caller(request)
        check_head(request, body, self._limits, anonymous=viewer.anonymous)
        if viewer.anonymous:
            self._admit_anonymous(request)
        operation = await read_operation(
            request, body, self._limits, anonymous=viewer.anonymous, seconds=self.admission.body_seconds
        )
        context = self._make_context(request, viewer, correlation_id)
        allowed = OperationType.from_http("GET" if request.method == "GET" else "POST")
        if media.streams:
            return self._stream(operation, context, media, allowed, request)
        running = self._run(operation, context, allowed, caller_key(viewer, request))
        answer = await while_connected(running, partial(disconnected, request.receive))
        return _json_response(answer, media, correlation_id)

    async def _caller(self, request: Request) -> Viewer:
        try:
            return await self._authenticate(bearer_token(request.headers.get("authorization")))
        except NotAuthenticated as error:
            headers = {"WWW-Authenticate": "Bearer"}
            raise RequestRefused(401, "UNAUTHENTICATED", str(error), headers=headers) from error

    def _admit_anonymous(self, request: Request) -> None:
        try:
            self.admission.anonymous.admit(request)
        except CodedError as error:
            seconds = str((error.extensions or {})["retryAfter"])
            raise RequestRefused.of(429, error, headers={"Retry-After": seconds}) from error

    async def _run(
        self, operation: OperationRequest, context: OperationContext, allowed: set[OperationType], caller: str
    ) -> Answer:
        try:
            async with self.admission.turns.taken(caller):
                return await answer_once(self.schema, operation, context, allowed - {OperationType.SUBSCRIPTION})
        except InvalidOperationTypeError as error:
            if error.operation_type is OperationType.MUTATION:
                message = "Send mutations by POST."
                raise RequestRefused(405, "METHOD_NOT_ALLOWED", message, headers={"Allow": "POST"}) from error
            message = "A subscription requires a WebSocket, or an Accept header with text/event-stream."
            raise RequestRefused(406, "NOT_ACCEPTABLE", message) from error

    def _stream(
        self,
        operation: OperationRequest,
        context: OperationContext,
        media: MediaType,
        allowed: set[OperationType],
        request: Request,
    ) -> ASGIApp:
        encoding = EventStreamEncoding() if media is MediaType.EVENT_STREAM else MultipartEncoding()
        results = answers(self.schema, operation, context, allowed)
        stream = AnswerStream(results, encoding, context, self._heartbeat_seconds)

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            with ExitStack() as slots:
                try:
                    slots.enter_context(
                        self.admission.stream(caller_key(context.viewer, request), operation.characters)
                    )
                except CodedError as error:
                    refused = _refused(RequestRefused.of(429, error), media, context.correlation_id)
                    return await refused(scope, receive, send)
                with self._tracked(stream), self._expiring(stream, context.viewer):
                    async with self.admission.turns.taken(caller_key(context.viewer, request)) as context.turn:
                        await stream(scope, receive, send)

        return serve

    async def _serve_socket(self, socket: WebSocket) -> None:
        if self._shutting_down or not self._check_websocket_origin(socket):
            await self.reject_websocket(socket)
            return
        subprotocol = await self.pick_websocket_subprotocol(socket)
        await socket.accept(subprotocol)
        if subprotocol is None:
            return await socket.close(4406, "Subprotocol not acceptable")
        connection = SubscriptionSocket(
            socket,
            self.schema,
            authenticate=self._authenticate,
            make_context=self._make_context,
            limits=self._limits,
            admission=self.admission,
            set_alarm=self._set_alarm,
            connection_init_seconds=self._connection_init_seconds,
        )
        with self._tracked(connection):
            await connection.handle()

    @contextmanager
    def _tracked(self, connection: AnswerStream | SubscriptionSocket) -> Iterator[None]:
        closed = asyncio.get_running_loop().create_future()
        self._open[connection] = closed
        if self._shutting_down:
            connection.end(StreamEnd.SHUTTING_DOWN)
        try:
            yield
        finally:
            del self._open[connection]
            closed.set_result(None)

    @contextmanager
    def _expiring(self, stream: AnswerStream, viewer: Viewer) -> Iterator[None]:
        if viewer.expires_at is None:
            yield
            return
        alarm = self._set_alarm(viewer.expires_at, lambda: stream.end(StreamEnd.TOKEN_EXPIRED))
        try:
            yield
        finally:
            alarm.cancel()


def _json_response(answer: Answer, media: MediaType, correlation_id: str) -> Response:
    return Response(
        answer.json(),
        status_code=200 if answer.executed else _status_of_refusal(answer, media),
        headers={
            "Content-Type": f"{media}; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Correlation-Id": correlation_id,
        },
    )


def _status_of_refusal(answer: Answer, media: MediaType) -> int:
    """The status of a refusal: 200 for the older media type, whose clients take others for a broken connection."""
    code = answer.body["errors"][0]["extensions"]["code"]
    usual = 400 if media is MediaType.GRAPHQL_RESPONSE else 200
    return _STATUS_BY_CODE.get(code, usual)


def _refused(refused: RequestRefused, media: MediaType | None, correlation_id: str) -> Response:
    answer = refusal(refused.as_error(), correlation_id)
    readable = media if media is MediaType.GRAPHQL_RESPONSE else MediaType.JSON
    response = _json_response(answer, readable, correlation_id)
    response.status_code = refused.status
    response.headers.update(refused.headers)
    return response
