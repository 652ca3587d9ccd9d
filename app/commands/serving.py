"""Runs the API under uvicorn, and shuts it down in order: streams first, then connections."""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from app.errors import SettingsError
from app.graphql.transport.asgi import GatewayGraphQL
from app.settings import Settings
from app.sizes import MIB
from app.wire.limits import connection_limit, raise_descriptor_limit
from app.wire.protocols import protocols

_BACKLOG = 2048
# Interval of the pings that detect dead WebSockets.
_PING_SECONDS = 20.0
_GRACE_SECONDS = 10
# Maximum size of a WebSocket message from a client: the same as of the body of a POST.
_MESSAGE_BYTES = MIB
# A thread that writes a file or a row needs the interpreter lock after each system call. While the event loop is busy,
# it waits this long for it each time: a fiftieth of the default. Creating an upload takes some fifteen system calls.
_SWITCH_SECONDS = 0.0001
# Collections of younger objects before a full one, which stops everything for 0.1 to 0.2 s when there are many
# subscriptions and a full ring of events. It finds little, since operations leave no cycles.
_FULL_COLLECTION_EVERY = 100


class _Server(uvicorn.Server):
    """A server that ends its streams before it closes connections, and exits with 0 on a signal."""

    def __init__(self, config: uvicorn.Config, endpoint: GatewayGraphQL) -> None:
        super().__init__(config)
        self._endpoint = endpoint

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._endpoint.shutdown()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn would raise the signal again after shutdown, which would kill the process.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one. Raises SettingsError when the address is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"can't listen on {host} port {port}: {error.strerror}; choose another with --host and --port"
        ) from error
    bound.set_inheritable(True)
    return bound


def address_of(bound: socket.socket) -> str:
    """The URL under which a listening socket is reached from this machine."""
    host, port = bound.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # nosec B104 (compared, not bound)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def serve(
    app: Starlette,
    endpoint: GatewayGraphQL,
    bound: socket.socket,
    settings: Settings,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is called when requests can be answered.

    Raises SettingsError when the process may not open enough files for its connections.
    """
    connections = connection_limit(settings.connections, raise_descriptor_limit())
    drop_slow_readers(bound, settings.unread_seconds)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        **protocols(connections, settings.head_seconds),
        ws_max_size=_MESSAGE_BYTES,
        # Compression would keep a window per connection, which doubles a watcher's memory for messages of a few bytes.
        ws_per_message_deflate=False,
        ws_ping_interval=_PING_SECONDS,
        ws_ping_timeout=_PING_SECONDS,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = _Server(config, endpoint)
    sys.setswitchinterval(_SWITCH_SECONDS)

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_when_started(server, ready))
            await server.serve([bound])

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())


def drop_slow_readers(bound: socket.socket, seconds: float) -> None:
    """Make the kernel close connections whose client reads nothing for `seconds` (tcp(7)). Linux only.

    Connections inherit this. It frees the buffers on every path: responses, downloads, streams, WebSockets, and what
    remains when a connection is closed.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(seconds * 1000)))


async def _when_started(server: uvicorn.Server, ready: Callable[[], None]) -> None:
    while not server.started:
        if server.should_exit:
            return
        await asyncio.sleep(0.01)
    # What start-up created is never freed. Without this, the collector would walk it repeatedly while events are sent.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], _FULL_COLLECTION_EVERY)
    ready()
