"""A folder store behind a real uvicorn: in a thread of the test, or as a process that can be killed."""

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from app.adapters.folder.store import FolderStore
from app.web.objects import OnBytes, OnHead, Permission, object_routes
from app.wire.protocols import protocols

SECRET = b"thirty-two bytes of test secret."


@contextlib.contextmanager
def served(
    store: FolderStore,
    on_head: OnHead | None = None,
    on_bytes: OnBytes | None = None,
    *,
    permission: Permission | None = None,
    allowed_origins: Sequence[str] = (),
    silence_seconds: float = 60,
) -> Iterator[str]:
    """Serves the store's addresses on a free port; yields the address of the server."""
    routes = object_routes(
        store,
        on_head,
        on_bytes,
        permission=permission,
        allowed_origins=allowed_origins,
        silence_seconds=silence_seconds,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = _server(Starlette(routes=routes))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield "http://{}:{}".format(*listener.getsockname())
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _server(app: Starlette) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_level="error",
        loop="uvloop",
        **protocols(connections=100, head_seconds=60),
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def main(root: str) -> None:
    """Serve a folder until killed; print the port, then the number of bytes of every write."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)  # noqa: T201
    store = FolderStore(Path(root), SECRET)
    routes = object_routes(store, on_bytes=lambda key, count: print(count, flush=True))  # noqa: T201
    _server(Starlette(routes=routes)).run([listener])


if __name__ == "__main__":
    main(sys.argv[1])
