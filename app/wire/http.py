"""HTTP/1.1 connections: uvicorn's, with limits on what a client may send before the application sees it.

httptools (llhttp) has no limits of its own, and uvicorn adds none: a head of any length would be collected. Here every
callback and every read is counted, so a connection never holds more than one read (256 KB) and a head.
"""

import asyncio
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.client_network import network_of
from app.wire import refusals
from app.wire.handshakes import Handshakes
from app.wire.limits import (
    CHUNK_FRAMING_BYTES,
    DROPPED_BYTES,
    FRAMING_BYTES,
    HANDSHAKE_LINE_BYTES,
    HEAD_BYTES,
    HEAD_FIELDS,
    PIPELINED_REQUESTS,
)
from app.wire.refusals import Refusal
from app.wire.room import Room

# A client that is still sending sees the refusal if it reads within this time; later ones may see a reset.
_LINGER_SECONDS = 1.0
# Framing of a header line (": " and CRLF), and of the request line (two spaces, version, CRLF).
_FIELD_FRAMING = 4
_LINE_FRAMING = 12


class _Stopped(Exception):
    """Raised in a callback to stop the parser."""


class HttpConnection(HttpToolsProtocol):
    """A client's connection, for any number of requests."""

    def __init__(self, *, room: Room, handshakes: Handshakes, head_seconds: float, **server: Any) -> None:
        """A head must arrive within `head_seconds`. uvicorn sets `server`, the arguments of its own protocol."""
        super().__init__(**server)
        self.address = ""
        self._room = room
        self._handshakes = handshakes
        self._head_seconds = head_seconds
        self._timer: asyncio.TimerHandle | None = None  # for a head, for the rest of a body, or for lingering
        self._active: RequestResponseCycle | None = None

        self._in_head = True
        self._phase = 0  # changes at the end of every head and every body
        self._begun = False  # whether the parser has seen the beginning of the head
        self._unparsed = 0  # bytes of reads that began and ended in the same head
        self._head_bytes = 0
        self._framing = 0
        self._dropped = 0

        self._fault: Refusal | None = refusals.BAD_REQUEST  # unless a callback finds another
        self._deaf = False  # nothing more is parsed
        self._farewell: Refusal | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = network_of(self.client)
        if self._room.enter(self):
            self._await_head()
        else:
            self._deaf = True
            refusals.FULL.write(transport)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._room.leave(self)
        active = self._active
        super().connection_lost(exc)
        # uvicorn notifies only the newest of pipelined requests, which may not have started.
        if active is not None and not active.response_complete:
            active.disconnected = True
            active.message_event.set()

    def give_way(self) -> None:
        """Close immediately: another client needs the descriptor."""
        self._deaf = True
        self._stop_timer()
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return self._drop(len(data))
        self._unset_keepalive_if_required()
        phase = self._phase
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade()
        except httptools.HttpParserError:
            self._refuse(self._fault)
        else:
            self._weigh(len(data), whole=phase == self._phase)

    # What the parser has found

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINED_REQUESTS:
            # The client sees the close after the responses, and sends the rest again (RFC 9112, section 9.3.2).
            self._stop(None)
        self._begun = True
        self._head_bytes = _LINE_FRAMING
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        if self._head_bytes > HEAD_BYTES:
            self._stop(refusals.HEAD_TOO_LARGE)
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            self._stop(refusals.TRAILERS)
        self._head_bytes += len(name) + len(value) + _FIELD_FRAMING
        if self._head_bytes > HEAD_BYTES or len(self.headers) >= HEAD_FIELDS:
            self._stop(refusals.HEAD_TOO_LARGE)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._phase += 1
        self._framing = self._dropped = 0
        self._stop_timer()
        self._room.serve(self)
        super().on_headers_complete()
        if self.parser.should_upgrade() and not self._should_upgrade():
            # The parser skips the body of such a request, and can't distinguish it from the next request.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._framing -= len(body)
        super().on_body(body)

    def on_chunk_header(self) -> None:
        self._framing -= CHUNK_FRAMING_BYTES

    def on_message_complete(self) -> None:
        self._in_head = True
        self._phase += 1
        self._begun = False
        self._unparsed = 0
        if not self._outstanding():
            self._stop_timer()
        super().on_message_complete()

    def _stop(self, answer: Refusal | None) -> None:
        self._fault = answer
        raise _Stopped

    # What every read adds

    def _weigh(self, size: int, *, whole: bool) -> None:
        """Count a read that was parsed; `whole` when it ended neither a head nor a body."""
        if not self._in_head:
            if whole:
                self._weigh_body(size)
            return
        self._unparsed = self._unparsed + size if whole else 0
        if self._unparsed > HEAD_BYTES:
            self._refuse(refusals.HEAD_TOO_LARGE)
        elif self._begun or self._unparsed:
            self._await_head()
        elif not self._outstanding():
            self._rest()

    def _weigh_body(self, size: int) -> None:
        self._framing = max(0, self._framing + size)
        if self._framing > FRAMING_BYTES:
            self._refuse(refusals.CHUNK_EXTENSIONS)
        elif not self._outstanding():
            self._dropped += size
            if self._dropped > DROPPED_BYTES:
                self._refuse(None)

    # Waiting for the client

    def _await_head(self) -> None:
        if self._timer is not None:
            return
        self._timer = self.loop.call_later(self._head_seconds, self._head_is_late)
        if not self._outstanding():
            self._room.wait_for_head(self)

    def _head_is_late(self) -> None:
        self._timer = None
        if self.flow.read_paused:
            self._await_head()  # it may have arrived without being read
        else:
            self._refuse(refusals.HEAD_TIMEOUT if self._begun or self._unparsed else None)

    def _rest(self) -> None:
        """Wait for the next request, as long as the connection is kept alive."""
        self._room.wait(self)
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Answers

    def _outstanding(self) -> bool:
        """Whether a request waits for its response, or for the end of it."""
        return bool(self.pipeline) or (self._active is not None and not self._active.response_complete)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._deaf and not self.pipeline:
            self.server_state.total_requests += 1
            return self._say_farewell()
        super().on_response_complete()
        if self.transport.is_closing() or self._outstanding():
            return
        if self._in_head and self._timer is None:
            return self._rest()
        self._unset_keepalive_if_required()
        if self._in_head:
            self._room.wait_for_head(self)
        else:  # the rest of a body that the application did not read
            self._timer = self.loop.call_later(self._head_seconds, self._refuse, None)
            self._room.wait(self)

    # The end

    def _refuse(self, answer: Refusal | None) -> None:
        """Stop parsing, and close after `answer`, which is sent after the responses to earlier requests."""
        self._deaf = True
        self._farewell = answer
        self._stop_timer()
        self._unset_keepalive_if_required()
        if not self._in_head:
            self._abandon_request()
        if self._outstanding():
            self.transport.pause_reading()
        else:
            self._say_farewell()

    def _abandon_request(self) -> None:
        """Cancel the request whose body is faulty."""
        if self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()
        elif self.cycle is self._active and self._outstanding():
            if self.cycle.response_started:
                self._farewell = None
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._active = None

    def _say_farewell(self) -> None:
        if self.transport.is_closing():
            return
        if self._farewell:
            self._farewell.write(self.transport)
        self._room.wait(self)
        self.transport.write_eof()
        self._dropped = 0
        self.transport.resume_reading()
        self._timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _drop(self, size: int) -> None:
        if self._outstanding():
            return self.transport.pause_reading()
        self._dropped += size
        if self._dropped > DROPPED_BYTES:
            self.transport.close()

    def _upgrade(self) -> None:
        if not self._should_upgrade():
            self._deaf = True
            return
        lines = [len(self.url) + _LINE_FRAMING, *(len(name) + len(value) + 2 for name, value in self.headers)]
        if self._outstanding():
            self._refuse(refusals.BAD_REQUEST)
        elif max(lines) > HANDSHAKE_LINE_BYTES - _LINE_FRAMING:
            self._refuse(refusals.HANDSHAKE_TOO_LARGE)
        else:
            # Its client has to wait for the response before it sends more (RFC 6455, section 4.1).
            self.transport.pause_reading()
            self._room.wait(self)
            self._handshakes.add(self.address, self._shake_hands)

    def _shake_hands(self) -> None:
        if not self.transport.is_closing():
            self._room.leave(self)
            self.transport.resume_reading()
            self.handle_websocket_upgrade()
