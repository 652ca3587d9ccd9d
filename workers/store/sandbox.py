"""A sandbox whose source is in the object store: its folder contains a socket on which we serve it over NBD."""

import os
import threading
from pathlib import Path

from workers.limits import Limits
from workers.qemu.confinement import SOURCE_SOCKET, Sandbox
from workers.store.nbd_server import NbdServer, listen
from workers.store.source import StoredSource


class StoredSandbox(Sandbox):
    """A sandbox for a source in the store. Open its images `on_socket()`. The source is not closed with it."""

    def __init__(self, folder: Path, source: StoredSource, limits: Limits, cancelled: threading.Event) -> None:
        super().__init__(folder, limits, cancelled)
        self.source = source
        self._server: NbdServer | None = None

    @property
    def source_failure(self) -> Exception | None:
        return None if self._server is None else self._server.failure

    def _lay_source(self, user: int | None) -> None:
        listener = listen(self.folder, SOURCE_SOCKET)
        self._server = NbdServer(self.source, listener)
        self._server.start()
        if user is not None:
            # Connecting to a socket needs permission to write to it.
            os.chown(self.folder / SOURCE_SOCKET, -1, user)
            os.chmod(self.folder / SOURCE_SOCKET, 0o660)  # nosec B103 (for that group alone)

    def _take_source_back(self) -> None:
        if self._server is not None:
            self._server.close()
