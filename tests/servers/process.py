"""One server process of a test: started, killed and started again on the same port and the same data."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_BETWEEN_LOOKS = 0.02


def free_port() -> int:
    """A TCP port on 127.0.0.1 that no process listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server in `folder`. Subclasses say by which command it runs, and when it is ready."""

    # By which signal it ends in order.
    gentle_signal = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        """What to run."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """The environment variables of the process in addition to ours."""
        return {}

    def prepare(self) -> None:
        """Make what has to be there before the first start."""

    def is_ready(self) -> bool:
        """Whether the server answers."""
        raise NotImplementedError

    @property
    def log(self) -> Path:
        """What the process has said."""
        return self.folder / "log"

    @property
    def pid(self) -> int:
        """The running process. Raises RuntimeError when there is none."""
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process.pid

    def start(self) -> None:
        """Start it, for the first time or again, and wait until it answers. Raises RuntimeError when it does not."""
        process = self.launch()
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.command()[0]} does not start: {self.log.read_text()[-2000:]}")
            time.sleep(_BETWEEN_LOOKS)

    def launch(self) -> "subprocess.Popen[bytes]":
        """Start it without waiting: what it needs may be away."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prepare()
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._process

    def kill(self) -> None:
        """End it and its children at once, as a power cut would."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.send_signal(self.gentle_signal)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            self.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()


def answers(port: int) -> bool:
    """Whether a process listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
