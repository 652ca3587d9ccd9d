"""A relay in front of a server that cuts connections where a test wants it."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

# Given the beginning of a request, says how many bytes of what is answered still pass; None for all.
Cut = Callable[[bytes], int | None]
# Whether a piece of what a client sends is the beginning of a request.
Begins = Callable[[bytes], bool]

_PIECE = 64 * 1024


def is_http(piece: bytes) -> bool:
    """Whether a request of HTTP begins here."""
    return piece.split(b" ", 1)[0] in (b"GET", b"HEAD", b"PUT", b"POST", b"DELETE")


@contextlib.contextmanager
def relay(port: int, cut: Cut, begins: Begins = is_http) -> Iterator[int]:
    """Passes connections on to `port`; yields the port to connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=_accept, args=(listener, port, cut, begins), daemon=True)
        accepting.start()
        yield listener.getsockname()[1]
        # A thread that waits in accept() does not notice that its socket is closed.
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


def _accept(listener: socket.socket, port: int, cut: Cut, begins: Begins) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=_Connection(client, server, cut, begins).serve, daemon=True).start()


class _Connection:
    def __init__(self, client: socket.socket, server: socket.socket, cut: Cut, begins: Begins) -> None:
        self._client, self._server, self._cut, self._begins = client, server, cut, begins
        self._left: int | None = None

    def serve(self) -> None:
        answering = threading.Thread(target=self._answer, daemon=True)
        answering.start()
        with contextlib.suppress(OSError):
            while piece := self._client.recv(_PIECE):
                if self._begins(piece):
                    self._left = self._cut(piece)
                self._server.sendall(piece)
        self._end()
        answering.join()
        self._client.close()
        self._server.close()

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            while piece := self._server.recv(_PIECE):
                passing = piece if self._left is None else piece[: self._left]
                self._client.sendall(passing)
                if self._left is not None:
                    self._left -= len(passing)
                    if self._left == 0:
                        break
        self._end()

    def _end(self) -> None:
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
