"""A real HTTP server that answers as a test says, and remembers what it was asked."""

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from app.client.api.connection import Connection
from app.client.api.gateway import Api, client
from app.client.commands.session import Session


@dataclass(frozen=True)
class Asked:
    """A request that came in, with its body."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of a GraphQL request."""
        variables: dict[str, Any] = json.loads(self.body)["variables"]
        return variables

    @property
    def operation(self) -> str:
        """The name of a GraphQL request's operation."""
        document: str = json.loads(self.body)["query"]
        return document.split("{")[0].split("(")[0].split()[1]


@dataclass(frozen=True)
class Reply:
    """An answer. With `cut`, the connection ends before the body is as long as announced."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


def data(**fields: Any) -> Reply:
    """A GraphQL response with data."""
    return Reply(json.dumps({"data": fields}).encode(), headers={"Content-Type": "application/json"})


def errors(code: str, message: str = "No.", status: int = 200, **extensions: Any) -> Reply:
    """A GraphQL response with an error."""
    content = {"errors": [{"message": message, "extensions": {"code": code, **extensions}}], "data": None}
    return Reply(json.dumps(content).encode(), status, {"Content-Type": "application/json"})


def events(*items: dict[str, Any], complete: bool = True) -> Reply:
    """A stream of the data of events; without `complete` it just stops."""
    text = "".join(f"event: next\ndata: {json.dumps({'data': item})}\n\n" for item in items)
    ending = "event: complete\ndata:\n\n" if complete else ""
    return Reply((":\n\n" + text + ending).encode(), headers={"Content-Type": "text/event-stream; charset=utf-8"})


Answer = Callable[[Asked], Reply]


class ScriptedServer:
    """Answers each request by `answer`; `asked` are those that came, in order."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[Asked] = []
        self._answer = answer
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65_536)
                if self.raw_requestline and self.parse_request():
                    scripted._serve(self)
                self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("content-length", 0))
        body = handler.rfile.read(length)
        asked = Asked(handler.command, handler.path, {n.lower(): v for n, v in handler.headers.items()}, body)
        self.asked.append(asked)
        reply = self._answer(asked)
        handler.send_response_only(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(reply.body) + reply.cut))
        handler.end_headers()
        handler.wfile.write(reply.body)

    @contextmanager
    def running(self) -> Iterator["ScriptedServer"]:
        """Serves until the end of the block."""
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


def in_turn(*replies: Reply) -> Answer:
    """Answers with one reply after the other; a request beyond them gets 500."""
    left = iter(replies)
    return lambda _asked: next(left, Reply(b"nothing is left to say", 500))


@asynccontextmanager
async def session_with(answer: Answer) -> AsyncIterator[tuple[Session, ScriptedServer]]:
    """A client's session with a server that answers so."""
    with ScriptedServer(answer).running() as server:
        async with client() as http:
            yield Session(Api(Connection(f"{server.url}/graphql", "token"), http), http), server
