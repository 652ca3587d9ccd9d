"""Reads a stream of server-sent events (HTML standard, section 9.2.6, "Interpreting an event stream")."""

from dataclasses import dataclass, field

from app.client.errors import NoAnswer

# No event of a gateway is nearly as long; a stream without line breaks must not fill the memory.
_MAXIMUM_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `id` is the newest that the stream has named so far, "" when none."""

    name: str
    data: str
    id: str


@dataclass(slots=True)
class EventParser:
    """Turns the bytes of a stream into events, however they are cut into chunks."""

    _rest: bytearray = field(default_factory=bytearray)
    _data: list[str] = field(default_factory=list)
    _name: str = ""
    _id: str = ""
    _size: int = 0
    _begun: bool = False

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that are complete with this chunk. Raises NoAnswer when one is too long to be one."""
        self._rest += chunk
        self._size += len(chunk)
        events = [event for line in self._lines() if (event := self._take(line)) is not None]
        if self._size > _MAXIMUM_BYTES:
            raise NoAnswer("The gateway's stream holds an event that is too long.")
        return events

    def _lines(self) -> list[str]:
        """The lines that are complete: LF, CR and CRLF end one."""
        held = b""
        if self._rest.endswith(b"\r"):
            # Whether an LF belongs to it, only the next chunk tells; a heartbeat brings one in any case.
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
        # An event without data is dropped, but for this: "event: complete" may come with none.
        return Event(name or "message", "\n".join(data), self._id) if data or name else None
