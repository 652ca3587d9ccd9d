"""What a server that was taken over by a hostile image can make its client believe: nothing that was not asked for."""

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from workers.errors import QemuFailed, QemuRefused
from workers.qemu import nbd_protocol as nbd
from workers.qemu.nbd_client import NbdClient

SIZE = 1 << 30
MANY = 1 << 31


def option_reply(option: int, kind: int, payload: bytes = b"", length: int | None = None) -> bytes:
    length = len(payload) if length is None else length
    return nbd.OPTION_REPLY.pack(nbd.OPTION_REPLY_MAGIC, option, kind, length) + payload


GREETING = nbd.GREETING.pack(nbd.NBD_MAGIC, nbd.OPTION_MAGIC, 3)
STRUCTURED = option_reply(nbd.OPT_STRUCTURED_REPLY, nbd.REP_ACK)
CONTEXT = option_reply(nbd.OPT_SET_META_CONTEXT, nbd.REP_META_CONTEXT, bytes(4) + nbd.BASE_ALLOCATION)
CONTEXTS = CONTEXT + option_reply(nbd.OPT_SET_META_CONTEXT, nbd.REP_ACK)
EXPORT = option_reply(nbd.OPT_GO, nbd.REP_INFO, nbd.INFO_EXPORT_DATA.pack(nbd.INFO_EXPORT, SIZE, nbd.HAS_FLAGS))
GO = option_reply(nbd.OPT_GO, nbd.REP_ACK)
HANDSHAKE = GREETING + STRUCTURED + CONTEXTS + EXPORT + GO


def chunk(kind: int, payload: bytes = b"", handle: int = 1, *, done: bool = True, length: int | None = None) -> bytes:
    length = len(payload) if length is None else length
    return nbd.CHUNK.pack(nbd.CHUNK_MAGIC, nbd.CHUNK_DONE if done else 0, kind, handle, length) + payload


def data(content: bytes, place: int = 0, handle: int = 1, *, done: bool = True) -> bytes:
    return chunk(nbd.CHUNK_DATA, place.to_bytes(8, "big") + content, handle, done=done)


def hole(length: int, place: int = 0, handle: int = 1) -> bytes:
    return chunk(nbd.CHUNK_HOLE, struct.pack(">QI", place, length), handle)


def status(*extents: tuple[int, int], handle: int = 1) -> bytes:
    return chunk(nbd.CHUNK_BLOCK_STATUS, bytes(4) + b"".join(struct.pack(">II", *one) for one in extents), handle)


def error(code: int, message: bytes = b"", handle: int = 1) -> bytes:
    return chunk(nbd.CHUNK_ERROR + 1, struct.pack(">IH", code, len(message)) + message, handle)


@contextmanager
def said(content: bytes) -> Iterator[socket.socket]:
    """A connection whose other side says all of this and then hangs up, whatever it hears."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(60)
        theirs.sendall(content)
        theirs.shutdown(socket.SHUT_WR)
        yield ours


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GREETING[:9],
        bytes(18),
        nbd.GREETING.pack(nbd.NBD_MAGIC, nbd.OPTION_MAGIC, 0),
        GREETING + option_reply(nbd.OPT_STRUCTURED_REPLY, nbd.REP_ERR_UNSUP, b"no"),
        GREETING + option_reply(nbd.OPT_STRUCTURED_REPLY, nbd.REP_ACK, length=MANY),
        HANDSHAKE.replace(STRUCTURED, option_reply(nbd.OPT_STRUCTURED_REPLY, nbd.REP_ACK, bytes(5000))),
        GREETING + option_reply(nbd.OPT_GO, nbd.REP_ACK),
        GREETING + STRUCTURED + option_reply(nbd.OPT_SET_META_CONTEXT, nbd.REP_ACK),
        GREETING + STRUCTURED + CONTEXT * 100,
        GREETING + STRUCTURED + CONTEXTS + GO,
        GREETING + STRUCTURED + CONTEXTS + option_reply(nbd.OPT_GO, nbd.REP_INFO, bytes(3)) + GO,
        HANDSHAKE.replace(EXPORT, EXPORT[:-1] + b"\0"),
    ],
    ids=range(13),
)
def test_a_handshake_that_is_none_is_an_error_and_closes_the_connection(content: bytes) -> None:
    with said(content) as connection:
        with pytest.raises(QemuFailed):
            NbdClient(connection)
        assert connection.fileno() == -1


def test_an_export_is_asked_for_by_its_name_and_another_context() -> None:
    context = option_reply(nbd.OPT_SET_META_CONTEXT, nbd.REP_META_CONTEXT, bytes(4) + nbd.ALLOCATION_DEPTH)
    replies = HANDSHAKE.replace(CONTEXT, context) + status((1 << 19, 1), (1 << 19, 2))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(replies)
        client = NbdClient(ours, "point-1", nbd.ALLOCATION_DEPTH)
        assert statuses(client) == [(1 << 19, 1), (1 << 19, 2)]
        asked = theirs.recv(4096)
    name = struct.pack(">I7s", 7, b"point-1")
    query = name + struct.pack(">II", 1, 21) + b"qemu:allocation-depth"
    assert nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_SET_META_CONTEXT, len(query)) + query in asked
    assert nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_GO, 13) + name + bytes(2) in asked


def test_a_server_without_the_context_is_refused() -> None:
    with said(HANDSHAKE) as connection, pytest.raises(QemuFailed, match="no qemu:allocation-depth"):
        NbdClient(connection, context=nbd.ALLOCATION_DEPTH)


def read(client: NbdClient) -> bytes:
    buffer = bytearray(b"?" * 16)
    client.read_into(0, memoryview(buffer))
    return bytes(buffer)


def statuses(client: NbdClient) -> list[tuple[int, int]]:
    return client.block_status(0, 1 << 20)


def small_statuses(client: NbdClient) -> list[tuple[int, int]]:
    return client.block_status(0, 1024, within=512)


NONE = chunk(nbd.CHUNK_NONE)


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (data(b"0123456789abcdef"), b"0123456789abcdef"),
        (data(b"0123456789abcdef", done=False) + NONE, b"0123456789abcdef"),
        (hole(16), bytes(16)),
    ],
)
def test_data_and_holes_are_read(answer: bytes, content: bytes) -> None:
    with said(HANDSHAKE + answer) as connection:
        client = NbdClient(connection)
        assert client.size == SIZE
        assert read(client) == content


def test_answers_come_in_any_order_and_are_given_in_that_of_the_reads() -> None:
    answers = [data(bytes([n]) * 4, place=4 * n, handle=n + 1) for n in (2, 0, 1, 3)]
    buffers = [(4 * n, memoryview(bytearray(4))) for n in range(4)]
    with said(HANDSHAKE + b"".join(answers)) as connection:
        found = NbdClient(connection).read_many(iter(buffers), in_flight=3)
        assert [(place, bytes(content)) for place, content in found] == [(4 * n, bytes([n]) * 4) for n in range(4)]


def test_a_status_comes_in_several_answers_and_is_put_together() -> None:
    answers = status((1 << 18, 0), (1 << 18, 0)) + status((1 << 18, 3), (1 << 30, 3), handle=2)
    with said(HANDSHAKE + answers) as connection:
        assert statuses(NbdClient(connection)) == [(1 << 19, 0), (1 << 19, 3)]


def test_statuses_of_small_ranges_come_in_any_order_and_may_be_short() -> None:
    unit = 1 << 16
    answers = [
        status((unit, 3), handle=2),
        status((unit // 2, 0), handle=1),
        status((unit // 2, 3), handle=4),
        status((2 * unit, 3), handle=3),
    ]
    with said(HANDSHAKE + b"".join(answers)) as connection:
        found = NbdClient(connection).block_status(0, 2 * unit + 512, within=unit)
    assert found == [(unit // 2, 0), (unit // 2 + unit + 512, 3)]


def test_no_request_for_a_small_range_crosses_a_multiple_of_it() -> None:
    unit = 1 << 16
    answers = status((512, 0)) + status((unit, 0), handle=2) + status((1024, 0), handle=3)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(HANDSHAKE + answers)
        assert NbdClient(ours).block_status(unit - 512, unit + 1536, within=unit) == [(unit + 1536, 0)]
        asked = theirs.recv(4096)
    requests = nbd.REQUEST.iter_unpack(asked[-3 * nbd.REQUEST.size :])
    assert [(offset, length) for *_, offset, length in requests] == [(unit - 512, 512), (unit, unit), (2 * unit, 1024)]


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (read, b""),
        (read, data(b"0123456789abcdef")[:-1]),
        (read, b"x" * 40),
        (read, nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, 0, 1) + bytes(16)),
        (read, data(b"0123456789abcdef", handle=2)),
        (read, data(b"0123456789abcdef", place=1)),
        (read, data(b"0123456789abcde")),
        (read, data(b"0123456789abcdefg")),
        (read, chunk(nbd.CHUNK_DATA, length=MANY)),
        (read, chunk(nbd.CHUNK_DATA, length=7)),
        (read, hole(15)),
        (read, hole((1 << 32) - 1)),
        (read, hole(16, place=16)),
        (read, chunk(nbd.CHUNK_HOLE, bytes(11))),
        (read, chunk(nbd.CHUNK_NONE)),
        (read, chunk(99, bytes(24))),
        (read, chunk(nbd.CHUNK_ERROR + 1, length=MANY)),
        (read, chunk(nbd.CHUNK_ERROR + 1, bytes(5))),
        (read, error(nbd.EIO, b"x" * 5000)),
        (read, data(b"0123456789abcdef", done=False) * 2),
        (read, data(b"0123456789abcdef", done=False) + chunk(nbd.CHUNK_NONE, handle=2)),
        (statuses, status((1 << 20, 0), handle=2)),
        (statuses, status()),
        (statuses, status((0, 0), (1 << 20, 0))),
        (statuses, chunk(nbd.CHUNK_BLOCK_STATUS, bytes(13))),
        (statuses, chunk(nbd.CHUNK_BLOCK_STATUS, length=MANY + 4)),
        (statuses, data(bytes(12))),
        (small_statuses, status((512, 0)) + status((512, 0))),
        (small_statuses, status(*[(512, 0)] * 3)),
        (small_statuses, status((512, 0)) + status((512, 0), handle=3)),
    ],
    ids=range(30),
)
def test_an_answer_that_does_not_fit_ends_the_connection(ask: Callable[[NbdClient], object], answer: bytes) -> None:
    with said(HANDSHAKE + answer) as connection:
        client = NbdClient(connection)
        with pytest.raises(QemuFailed):
            ask(client)
        assert connection.fileno() == -1


@pytest.mark.parametrize("ask", [read, statuses])
def test_an_error_is_raised_with_its_reason(ask: Callable[[NbdClient], object]) -> None:
    with said(HANDSHAKE + error(nbd.EIO, b"bad grain")) as connection:
        client = NbdClient(connection)
        with pytest.raises(QemuRefused, match="bad grain") as caught:
            ask(client)
        assert (caught.value.subcommand, caught.value.code) == ("nbd", nbd.EIO)


def test_who_stops_in_the_middle_has_no_connection_any_more() -> None:
    answers = b"".join(data(b"1234", place=4 * n, handle=n + 1) for n in range(4))
    with said(HANDSHAKE + answers) as connection:
        found = NbdClient(connection).read_many((4 * n, memoryview(bytearray(4))) for n in range(4))
        assert next(found)[0] == 0
        found.close()
        assert connection.fileno() == -1
