"""`/metrics` on a separate port, in a thread: `images work` and `images schedule` have no other server."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer

from app import metrics
from app.errors import SettingsError
from app.settings import Settings

# How long a client may send or read nothing before its connection is closed, in seconds.
_SILENCE_SECONDS = 10.0


@contextmanager
def metrics_port(settings: Settings) -> Iterator[None]:
    """Serve /metrics on IMAGES_METRICS_PORT during the block; does nothing when that is not set.

    Raises SettingsError when the port is not available.
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


# Not HTTPServer, which looks up its own name in the DNS: that may take long.
class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    # A connected client must not keep the process from exiting.
    block_on_close = False

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int]) -> None:
        self.address_family = family
        super().__init__(address, _Scrape)


class _Scrape(BaseHTTPRequestHandler):
    """One request. The connection is closed after the response (HTTP/1.0)."""

    timeout = _SILENCE_SECONDS

    def do_GET(self) -> None:
        """Respond to `/metrics` with any query."""
        if self.path.partition("?")[0] != "/metrics":
            return self._answer(404, "text/plain; charset=utf-8", b"Only /metrics is served here.\n")
        self._answer(200, metrics.CONTENT_TYPE, metrics.page())

    def log_message(self, format: str, *args: object) -> None:
        """Do not log scrapes."""

    def version_string(self) -> str:
        """The Server header, without versions."""
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
            "set a different port for each process on this machine"
        ) from error
