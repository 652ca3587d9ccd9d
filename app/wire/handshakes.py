"""WebSocket handshakes, spread over time."""

import asyncio
from collections import deque
from collections.abc import Callable

# A handshake and the first messages after it take about 2 ms of the event loop. A client may open hundreds of sockets
# at once; without pauses, they would all be served in one iteration of the loop, while everyone else waits.
_PAUSE_SECONDS = 0.01


class Handshakes:
    """Performs the handshakes of each address one after the other, with a pause of 10 ms after each."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Callable[[], None]]] = {}

    def add(self, address: str, perform: Callable[[], None]) -> None:
        """Call `perform` now, or after the address's earlier handshakes."""
        if address in self._waiting:
            self._waiting[address].append(perform)
        else:
            self._waiting[address] = deque()
            self._perform(address, perform)

    def _perform(self, address: str, perform: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._go_on, address)
        perform()

    def _go_on(self, address: str) -> None:
        if self._waiting[address]:
            self._perform(address, self._waiting[address].popleft())
        else:
            del self._waiting[address]
