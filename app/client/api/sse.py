"""Parses a stream of server-sent events (HTML standard, section 9.2.6, "Interpreting an event stream")."""

from dataclasses import dataclass, field

from app.client.errors import NoAnswer
from app.sizes import MIB

# Events of a gateway are far shorter. A stream without line breaks must not fill the memory.
_MAXIMUM_BYTES = 8 * MIB


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `id` is the newest id in the stream so far, "" if there is none."""

    name: str
    data: str
    id: str


@dataclass(slots=True)
class EventParser:
    """Parses the chunks of a stream into events."""

    _rest: bytearray = field(default_factory=bytearray)
    _data: list[str] = field(default_factory=list)
    _name: str = ""
    _id: str = ""
    _size: int = 0
    _begun: bool = False

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that are complete with this chunk. Raises NoAnswer if an event is longer than 8 MiB."""
        self._rest += chunk
        self._size += len(chunk)
        events = [event for line in self._lines() if (event := self._take(line)) is not None]
        if self._size > _MAXIMUM_BYTES:
            raise NoAnswer("The gateway's stream contains an event that is longer than 8 MiB.")
        return events

    def _lines(self) -> list[str]:
        """The complete lines, which end with LF, CR or CRLF."""
        held = b""
        if self._rest.endswith(b"\r"):
            # The next chunk shows whether an LF follows; a heartbeat is one at the latest.
            held = b"\r"
            del self._rest[-1:]
        text = bytes(self._rest).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._rest = bytearray(rest + held)
        if lines and not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        return [line.decode(errors="replace") for line in lines]

    def _take(self, line: str) -> Event | None:
        if not line:
            return self._dispatched()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
        return None

    def _dispatched(self) -> Event | None:
        name, data = self._name, self._data
        self._name, self._data, self._size = "", [], len(self._rest)
        # Events without data are dropped, except named ones: "event: complete" may have none.
        return Event(name or "message", "\n".join(data), self._id) if data or name else None
