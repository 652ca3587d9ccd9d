"""A headless Chromium, driven by the Chrome DevTools Protocol over a pair of pipes.

The protocol: https://chromedevtools.github.io/devtools-protocol/. Over pipes its messages are JSON that ends
in NUL; the browser reads them from descriptor 3 and writes its own to descriptor 4.
"""

import itertools
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

Message = dict[str, Any]

PATIENCE_SECONDS = 30.0

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,850",
]


class Tab:
    """One tab: what it asked the network for, what went wrong in it, and a way to act in it."""

    def __init__(self, reading: int, writing: int) -> None:
        self.requests: list[str] = []
        self.problems: list[str] = []
        self._workers: dict[str, str] = {}
        self._loaded_workers: set[str] = set()
        self._reading = reading
        self._writing = writing
        self._received = b""
        self._numbers = itertools.count(1)
        self.open_another()

    def open_another(self) -> None:
        """Goes on in a new, empty tab of the same browser; the one before stays open."""
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session: str = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable", session=self._session)
        self._listen(self._session)

    def reload(self) -> None:
        """Loads the page again, as people do. Returns when the one before has gone."""
        self.value("window.isBeforeReload = true")
        self._call("Page.reload", {}, self._session)
        self.wait_for("window.isBeforeReload === undefined")

    def open(self, url: str) -> None:
        """Goes to `url`; forgets earlier requests and problems."""
        self.requests.clear()
        self.problems.clear()
        self._loaded_workers.clear()
        answer = self._call("Page.navigate", {"url": url}, self._session)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"

    def value(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is awaited."""
        given = {"expression": script, "awaitPromise": True, "returnByValue": True}
        answer = self._call("Runtime.evaluate", given, self._session)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """The first value of the expression that is not false; it is evaluated before every frame."""
        look = f"const found = ({script}); if (found) resolve(found); else requestAnimationFrame(look);"
        while True:
            try:
                return self.value(f"new Promise((resolve) => {{ const look = () => {{ {look} }}; look(); }})")
            except AssertionError as error:
                # The page went to another one, or loaded itself again, while it was looked at.
                if not any(reason in str(error) for reason in ("navigated", "context was destroyed")):
                    raise

    def click(self, selector: str) -> None:
        """Clicks the element of the CSS selector, as soon as there is one."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"{element} !== null")
        self.value(f"{element}.click()")

    def wait_for_worker(self, url: str) -> None:
        """Returns when the script of a web worker has run; what it asked the network for is then known."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while url not in self._loaded_workers:
            self._notice(self._next(deadline, f"the worker {url}"))

    def _listen(self, session: str) -> None:
        # Workers are targets of their own. They wait until their network can be listened to.
        workers = {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True}
        self._send("Target.setAutoAttach", workers, session)
        self._send("Network.enable", {}, session)
        self._send("Runtime.runIfWaitingForDebugger", {}, session)

    def _call(self, method: str, given: Message | None = None, session: str | None = None) -> Message:
        number = self._send(method, given or {}, session)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (message := self._next(deadline, method)).get("id") != number:
            self._notice(message)
        assert "error" not in message, f"{method}: {message['error']}"
        result: Message = message["result"]
        return result

    def _send(self, method: str, given: Message, session: str | None) -> int:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": given}
        if session is not None:
            message["sessionId"] = session
        left = json.dumps(message).encode() + b"\0"
        while left:
            left = left[os.write(self._writing, left) :]
        return number

    def _next(self, deadline: float, waiting_for: str) -> Message:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._reading], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no sign of {waiting_for} in {PATIENCE_SECONDS} s; problems: {self.problems}"
            piece = os.read(self._reading, 1 << 20)
            assert piece, f"Chromium ended while it was asked for {waiting_for}"
            self._received += piece
        raw, self._received = self._received.split(b"\0", 1)
        message: Message = json.loads(raw)
        return message

    def _notice(self, message: Message) -> None:
        event: Message = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(event["request"]["url"])
            case "Network.webSocketCreated":
                self.requests.append(event["url"])
            case "Target.attachedToTarget":
                self._workers[event["sessionId"]] = event["targetInfo"]["url"]
                self._listen(event["sessionId"])
            case "Inspector.workerScriptLoaded":
                self._loaded_workers.add(self._workers[message["sessionId"]])
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(event["exceptionDetails"]))
            case "Log.entryAdded" if event["entry"]["level"] == "error":
                self.problems.append(event["entry"]["text"])


@contextmanager
def chromium(profile: Path) -> Iterator[Tab]:
    """A tab of a Chromium that keeps its files in the empty folder `profile`, and ends with the block."""
    browser_reads, writing = os.pipe()
    reading, browser_writes = os.pipe()
    command = f'exec "$@" 3<&{browser_reads} 4>&{browser_writes}'
    flags = [*FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    with (profile.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            # Not sh: dash knows only descriptors of one digit.
            ["bash", "-c", command, "bash", "chromium", *flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(browser_reads, browser_writes),
        )
    os.close(browser_reads)
    os.close(browser_writes)
    try:
        yield Tab(reading, writing)
    finally:
        os.close(writing)  # which is how Chromium learns that it is no longer needed
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()
        process.wait(timeout=10)
        os.close(reading)
