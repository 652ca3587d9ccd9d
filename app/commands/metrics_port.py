"""`/metrics` on a port of its own, in a thread: `images work` and `images schedule` have no other server."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer

from app import metrics
from app.errors import SettingsError
from app.settings import Settings

# How long a client may be silent, or read nothing, before its connection is closed.
_SILENCE_SECONDS = 10.0


@contextmanager
def metrics_port(settings: Settings) -> Iterator[None]:
    """Answer at IMAGES_METRICS_PORT for the time of the block; does nothing where that is not set.

    Raises SettingsError when the port can't be had.
    """
    if settings.metrics_port is None:
        yield
        return
    with _open(settings.host, settings.metrics_port) as server:
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


# HTTPServer would look its own name up in the DNS, which may take long.
class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    # A client that is still connected keeps no process from ending.
    block_on_close = False

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int]) -> None:
        self.address_family = family
        super().__init__(address, _Scrape)


class _Scrape(BaseHTTPRequestHandler):
    """One request. The connection is closed after its answer (HTTP/1.0)."""

    timeout = _SILENCE_SECONDS

    def do_GET(self) -> None:
        """Answer `/metrics`, whatever follows as a query."""
        if self.path.partition("?")[0] != "/metrics":
            return self._answer(404, "text/plain; charset=utf-8", b"Only /metrics is served here.\n")
        self._answer(200, metrics.CONTENT_TYPE, metrics.page())

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not logged."""

    def version_string(self) -> str:
        """The Server field: no versions."""
        return "images"

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)


def _open(host: str, port: int) -> _Server:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return _Server(family, (host, port))
    except OSError as error:
        raise SettingsError(
            f"IMAGES_METRICS_PORT: can't listen on {host} port {port}: {error.strerror}; "
            "give each process on this machine a port of its own"
        ) from error
