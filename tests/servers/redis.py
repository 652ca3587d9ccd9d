"""A Redis of a test's own: nothing is kept when it is killed, as befits what only wakes people up."""

import socket
from collections.abc import Sequence
from pathlib import Path

from tests.servers.process import Server, answers


class Redis(Server):
    """Redis on a free port; with a password when one is given."""

    def __init__(self, folder: Path, password: str = "") -> None:
        super().__init__(folder)
        self.password = password

    @property
    def url(self) -> str:
        """What IMAGES_BROKER_URL takes."""
        return self.database(0)

    def database(self, number: int) -> str:
        """The same for another of its 1,000 databases, so that each test may have its own."""
        credentials = f":{self.password}@" if self.password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/{number}"

    def command(self) -> Sequence[str]:
        options = {
            "--port": str(self.port),
            "--bind": "127.0.0.1",
            "--dir": str(self.folder),
            "--save": "",
            "--appendonly": "no",
            "--databases": "1000",
        }
        if self.password:
            options["--requirepass"] = self.password
        return ["redis-server", *(word for option in options.items() for word in option)]

    def is_ready(self) -> bool:
        if not answers(self.port):
            return False
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
