"""An object that is read like a file: the right bytes, few requests, and never more than a bounded part in memory."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.errors import StoreUnavailable
from tests.workers.images import KiB, MiB
from tests.workers.stored import StoredFile, stored
from workers.store.source import BLOCK, StoredSource

SIZE = 24 * MiB + 777

Both = tuple[StoredFile, StoredSource]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("object") / "object"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.fixture(scope="module")
def content(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def both(path: Path) -> Iterator[Both]:
    with stored(path, memory=8 * MiB) as pair:
        yield pair


def whole(source: StoredSource, offset: int, length: int) -> bytes:
    return b"".join(source.pieces(offset, length))


@pytest.mark.parametrize("threads", [1, 8])
def test_any_range_reads_as_it_is_whoever_else_reads(both: Both, content: bytes, threads: int) -> None:
    _, source = both

    def read_here_and_there(seed: int) -> None:
        numbers = random.Random(seed)
        for _ in range(60):
            offset = numbers.randrange(SIZE)
            length = min(numbers.choice([1, 512, 65536, 300 * KiB, 3 * MiB]), SIZE - offset)
            assert whole(source, offset, length) == content[offset : offset + length]
            assert source.read_at(offset, length) == content[offset : offset + length]
            buffer = bytearray(length)
            source.read_into(offset, memoryview(buffer))
            assert buffer == content[offset : offset + length]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read_here_and_there, range(threads)))


def test_reading_on_and_on_takes_few_requests_which_are_ahead_of_the_reader(both: Both, content: bytes) -> None:
    file, source = both
    for offset in range(0, SIZE - 64 * KiB, 64 * KiB):
        assert whole(source, offset, 64 * KiB) == content[offset : offset + 64 * KiB]
    assert len(file.asked) <= 32
    assert sum(length for _, length in file.asked) <= SIZE


def test_a_read_somewhere_asks_for_one_block_and_the_next_time_for_nothing(both: Both) -> None:
    file, source = both
    assert source.kept(5 * MiB, 100) is None
    source.read_at(5 * MiB, 100)
    assert source.kept(5 * MiB, 100) is not None
    source.read_at(5 * MiB + 100, 4096)
    assert file.asked == [(5 * MiB, BLOCK)]


def test_a_large_read_is_one_request_and_is_not_kept(both: Both, content: bytes) -> None:
    file, source = both
    buffer = bytearray(8 * MiB)
    source.read_into(3, memoryview(buffer))
    assert buffer == content[3 : 3 + 8 * MiB]
    assert source.read_at(4 * MiB, 4 * MiB) == content[4 * MiB : 8 * MiB]
    assert file.asked == [(3, 8 * MiB), (4 * MiB, 4 * MiB)]
    assert source.kept(4 * MiB, 1) is None


def test_behind_the_end_there_is_nothing_or_zeros(both: Both, content: bytes) -> None:
    _, source = both
    assert source.read_at(SIZE - 5, 100) == content[-5:]
    assert source.read_at(SIZE, 100) == source.read_at(SIZE + 1, 100) == b""
    for length in (100, 2 * MiB):
        buffer = bytearray(b"x" * length)
        source.read_into(SIZE - 5, memoryview(buffer))
        assert buffer == content[-5:] + bytes(length - 5)


def test_what_was_not_used_for_long_goes_first(path: Path) -> None:
    with stored(path, memory=4 * BLOCK) as (file, source):
        places = [place * 2 * BLOCK for place in range(5)]
        for place in places[:4]:
            source.read_at(place, 1)
        source.read_at(places[0], 1)
        source.read_at(places[4], 1)
        assert [source.kept(place, 1) is not None for place in places] == [True, False, True, True, True]
        assert len(file.asked) == 5


def test_what_is_kept_stays_within_its_bound(path: Path) -> None:
    with stored(path, memory=4 * MiB) as (file, source):
        for offset in range(0, SIZE - BLOCK, BLOCK):
            source.pieces(offset, BLOCK)
        kept = sum(source.kept(offset, BLOCK) is not None for offset in range(0, SIZE - BLOCK, BLOCK))
        assert 0 < kept * BLOCK <= 4 * MiB
        assert max(length for _, length in file.asked) <= MiB


def test_many_who_want_the_same_ask_the_store_once(both: Both, content: bytes) -> None:
    file, source = both
    file.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(source.read_at, 7 * MiB, 50) for _ in range(8)]
        file.gate.set()
        assert {read.result() for read in reads} == {content[7 * MiB : 7 * MiB + 50]}
    assert len(file.asked) == 1


def test_a_failure_of_the_store_is_raised_and_the_next_reader_asks_anew(both: Both, content: bytes) -> None:
    file, source = both
    file.broken_from = 0
    for length in (10, 2 * MiB):
        with pytest.raises(StoreUnavailable):
            source.read_at(6 * MiB, length)
    with pytest.raises(StoreUnavailable):
        source.pieces(6 * MiB, 2 * MiB)
    file.broken_from = None
    assert source.read_at(6 * MiB, 10) == content[6 * MiB : 6 * MiB + 10]


def test_an_error_while_reading_ahead_is_raised_to_the_reader_of_that_run(both: Both, content: bytes) -> None:
    file, source = both
    file.broken_from = BLOCK * 2
    assert whole(source, 0, BLOCK) == content[:BLOCK]
    with pytest.raises(StoreUnavailable):
        [source.pieces(offset, BLOCK) for offset in range(BLOCK, 8 * MiB, BLOCK)]
    file.broken_from = None
    assert whole(source, 0, 8 * MiB) == content[: 8 * MiB]


def test_closed_it_has_no_thread_left(path: Path) -> None:
    before = set(threading.enumerate())
    with stored(path) as (_, source):
        for offset in range(0, 8 * MiB, BLOCK):
            source.pieces(offset, BLOCK)
    assert set(threading.enumerate()) <= before
