"""A source served by NBD: what QEMU's own programs read from it, and what a hostile peer gets out of it."""

import json
import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.errors import StoreUnavailable
from tests.workers.images import KiB, MiB
from tests.workers.stored import StoredFile, stored
from workers.qemu import nbd_protocol as nbd
from workers.qemu.nbd_protocol import receive
from workers.store.nbd_server import NbdServer, listen
from workers.store.source import StoredSource

SIZE = 9 * MiB + 100
EXPORTED = 9 * MiB + 512


@dataclass
class Served:
    """A source that is being served on `path`."""

    content: bytes
    file: StoredFile
    source: StoredSource
    server: NbdServer
    path: Path

    @property
    def url(self) -> str:
        return f"nbd+unix://?socket={self.path}"

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(str(self.path))
        return connection

    def transmitting(self) -> socket.socket:
        """A connection that has agreed on the export, in the old and short way."""
        connection = self.connect()
        receive(connection, nbd.GREETING.size)
        connection.sendall((nbd.FIXED_NEWSTYLE | nbd.NO_ZEROES).to_bytes(4, "big"))
        connection.sendall(nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_EXPORT_NAME, 0))
        assert nbd.EXPORT.unpack(receive(connection, nbd.EXPORT.size))[0] == EXPORTED
        return connection


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    path = tmp_path / "object"
    path.write_bytes(random.Random(2).randbytes(SIZE))
    before = set(threading.enumerate())
    with stored(path) as (file, source):
        server = NbdServer(source, listen(tmp_path, "s"))
        server.start()
        yield Served(path.read_bytes(), file, source, server, tmp_path / "s")
        file.gate.set()
        server.close()
    assert set(threading.enumerate()) <= before


def request(offset: int, length: int, handle: int = 1, kind: int = nbd.CMD_READ, flags: int = 0) -> bytes:
    return nbd.REQUEST.pack(nbd.REQUEST_MAGIC, flags, kind, handle, offset, length)


def reply(connection: socket.socket) -> tuple[int, int]:
    """Error and handle of the next reply."""
    magic, error, handle = nbd.SIMPLE_REPLY.unpack(receive(connection, nbd.SIMPLE_REPLY.size))
    assert magic == nbd.SIMPLE_REPLY_MAGIC
    return error, handle


def is_hung_up(connection: socket.socket) -> bool:
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return True


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.needs_program("qemu-img")
def test_qemu_img_reads_the_same_bytes(served: Served, tmp_path: Path) -> None:
    done = run("qemu-img", "convert", "-f", "raw", "-O", "raw", served.url, str(tmp_path / "copy"))
    assert done.returncode == 0, done.stderr
    copy = (tmp_path / "copy").read_bytes()
    assert copy[:SIZE] == served.content
    assert not any(copy[SIZE:])
    assert served.server.failure is None


@pytest.mark.needs_program("qemu-nbd")
def test_the_export_is_listed_with_its_size_and_what_one_may_do(served: Served) -> None:
    said = run("qemu-nbd", "-L", "-k", str(served.path)).stdout
    assert "exports available: 1" in said
    assert f"size:  {EXPORTED}" in said
    assert "readonly" in said
    assert "multi" in said
    assert "max block: 4194304" in said


@pytest.mark.needs_program("qemu-io")
def test_qemu_io_reads_in_pieces_of_every_size_and_can_not_write(served: Served) -> None:
    reads = [
        f"read -v {offset} {length}"
        for offset, length in ((0, 512), (3 * MiB - 1, 70000), (SIZE - 7, 7), (EXPORTED - 3, 3))
    ]
    done = run("qemu-io", "-r", "-f", "raw", *(part for read in reads for part in ("-c", read)), served.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("read ") == 4
    assert run("qemu-io", "-f", "raw", "-c", "write 0 512", served.url).returncode != 0


@pytest.mark.needs_program("qemu-img")
def test_a_store_that_fails_is_an_io_error_to_qemu_and_is_remembered(served: Served, tmp_path: Path) -> None:
    served.file.broken_from = 5 * MiB
    done = run("qemu-img", "convert", "-f", "raw", "-O", "raw", served.url, str(tmp_path / "copy"))
    assert done.returncode == 1
    assert "Input/output error" in done.stderr
    assert isinstance(served.server.failure, StoreUnavailable)


def test_what_is_in_memory_is_not_held_up_by_what_has_to_be_fetched(served: Served) -> None:
    served.source.read_at(8 * MiB, 1)
    with served.transmitting() as connection:
        served.file.gate.clear()
        connection.sendall(request(0, 512, 1) + request(8 * MiB, 512, 2))
        assert reply(connection) == (0, 2)
        assert receive(connection, 512) == served.content[8 * MiB : 8 * MiB + 512]
        served.file.gate.set()
        assert reply(connection) == (0, 1)
        assert receive(connection, 512) == served.content[:512]


def test_requests_that_arrive_in_crumbs_are_answered(served: Served) -> None:
    with served.transmitting() as connection:
        asked = b"".join(request(n * 1000, 1000, n) for n in range(100))
        for place in range(0, len(asked), 45):
            connection.sendall(asked[place : place + 45])
        seen = set()
        for _ in range(100):
            error, handle = reply(connection)
            assert error == 0
            assert receive(connection, 1000) == served.content[handle * 1000 : handle * 1000 + 1000]
            seen.add(handle)
        assert seen == set(range(100))


@pytest.mark.parametrize(
    "asked",
    [
        request(EXPORTED, 1),
        request(EXPORTED - 1, 2),
        request((1 << 64) - 1, 1),
        request(0, 0),
        request(0, 4 * MiB + 1),
        request(0, (1 << 32) - 1),
        request(0, 512, flags=nbd.DONT_FRAGMENT),
        request(0, 512, kind=nbd.CMD_BLOCK_STATUS),
        request(0, 512, kind=4),
        request(0, 512, kind=6),
        request(0, 512, kind=99),
    ],
    ids=range(11),
)
def test_what_can_not_be_answered_is_an_error_and_the_connection_goes_on(served: Served, asked: bytes) -> None:
    with served.transmitting() as connection:
        connection.sendall(asked)
        assert reply(connection) == (nbd.EINVAL, 1)
        connection.sendall(request(0, 4, 2))
        assert reply(connection) == (0, 2)
        assert receive(connection, 4) == served.content[:4]
    assert served.server.failure is None


@pytest.mark.parametrize("garbage", [bytes(28), request(0, 512, kind=nbd.CMD_WRITE), b"\xff" * 4096], ids=range(3))
def test_who_talks_nonsense_is_hung_up_on_and_others_are_served(served: Served, garbage: bytes) -> None:
    with served.transmitting() as hostile, served.transmitting() as friendly:
        hostile.sendall(garbage)
        assert is_hung_up(hostile)
        friendly.sendall(request(0, 4))
        assert reply(friendly) == (0, 1)


def option(kind: int, data: bytes = b"", magic: int = nbd.OPTION_MAGIC, length: int | None = None) -> bytes:
    return nbd.OPTION.pack(magic, kind, len(data) if length is None else length) + data


@pytest.mark.parametrize(
    "said",
    [
        b"\0\0\0\xff",
        b"\0\0\0\3" + option(nbd.OPT_GO, magic=7),
        b"\0\0\0\3" + option(nbd.OPT_GO, length=(1 << 32) - 1),
        b"\0\0\0\3" + option(nbd.OPT_GO, length=4097),
        b"\0\0\0\3" + option(nbd.OPT_EXPORT_NAME, b"other"),
        b"\0\0\0\3" + option(99) * 64,
        b"\0\0\0\3" + option(nbd.OPT_ABORT),
    ],
    ids=range(7),
)
def test_a_handshake_that_leads_nowhere_ends(served: Served, said: bytes) -> None:
    with served.connect() as connection:
        connection.sendall(said)
        assert is_hung_up(connection)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (option(nbd.OPT_STRUCTURED_REPLY), nbd.REP_ERR_UNSUP),
        (option(nbd.OPT_LIST, b"x"), nbd.REP_ERR_INVALID),
        (option(nbd.OPT_INFO), nbd.REP_ERR_INVALID),
        (option(nbd.OPT_GO, b"\xff" * 6), nbd.REP_ERR_INVALID),
        (option(nbd.OPT_GO, struct.pack(">IH", 0, 9)), nbd.REP_ERR_INVALID),
        (option(nbd.OPT_GO, struct.pack(">I5sH", 5, b"other", 0)), nbd.REP_ERR_UNKNOWN),
    ],
    ids=range(6),
)
def test_an_option_that_is_refused_leaves_the_handshake_open(served: Served, said: bytes, kind: int) -> None:
    with served.connect() as connection:
        receive(connection, nbd.GREETING.size)
        connection.sendall(b"\0\0\0\3" + said)
        magic, _, answer, length = nbd.OPTION_REPLY.unpack(receive(connection, nbd.OPTION_REPLY.size))
        assert (magic, answer, length) == (nbd.OPTION_REPLY_MAGIC, kind, 0)
        connection.sendall(option(nbd.OPT_EXPORT_NAME))
        assert nbd.EXPORT.unpack(receive(connection, nbd.EXPORT.size))[0] == EXPORTED


def test_who_asks_for_much_and_reads_nothing_costs_little(served: Served) -> None:
    with served.transmitting() as connection:
        connection.settimeout(1)
        # It takes no more requests than it has answers in hand; the rest waits with the sender.
        with pytest.raises(TimeoutError):
            connection.sendall(b"".join(request(0, 4 * MiB, n) for n in range(100_000)))
        readers = [thread for thread in threading.enumerate() if thread.name.startswith("nbd-read")]
        assert len(readers) <= 4
        assert sum(length for _, length in served.file.asked) <= SIZE


def test_there_are_not_any_number_of_connections(served: Served) -> None:
    connections = [served.transmitting() for _ in range(8)]
    with served.connect() as one_more:
        assert is_hung_up(one_more)
    for connection in connections:
        connection.close()


def test_it_closes_while_somebody_waits_for_the_store(served: Served) -> None:
    with served.transmitting() as connection:
        served.file.gate.clear()
        connection.sendall(b"".join(request(n * 512 * KiB, 512, n) for n in range(18)))
        # Some are being fetched; closing waits for those, and does not fetch the others.
        while not served.file.asked:
            time.sleep(0.001)
        closing = threading.Thread(target=served.server.close)
        closing.start()
        assert is_hung_up(connection)
        served.file.gate.set()
        closing.join(60)
        assert not closing.is_alive()
    assert len(served.file.asked) <= 4


def test_a_socket_can_be_anywhere(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(10):
        folder /= "a" * 30
    folder.mkdir(parents=True)
    with listen(folder, "s") as listener:
        assert (folder / "s").is_socket()
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_random_bytes_never_harm(served: Served) -> None:
    numbers = random.Random(3)
    for _ in range(50):
        with served.connect() as connection:
            prefix = b"\0\0\0\3" if numbers.random() < 0.7 else b""
            connection.sendall(prefix + option(numbers.randrange(12), numbers.randbytes(numbers.randrange(64))))
            connection.shutdown(socket.SHUT_WR)
            assert is_hung_up(connection)
    assert (
        json.loads(run("qemu-img", "info", "--output=json", "-f", "raw", served.url).stdout)["virtual-size"] == EXPORTED
    )
