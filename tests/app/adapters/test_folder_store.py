"""The folder: what it owes like every store, and what only it promises."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.adapters.folder.addresses import PartAddress
from app.adapters.folder.sparse import HOLE_BLOCK, SparseWriter, clear_range
from app.adapters.folder.store import FolderStore
from app.adapters.folder.upload import sync_or_forget
from app.errors import (
    InvalidInput,
    ObjectMissing,
    PartsArriving,
    PartsMissing,
    StoreFull,
    StoreUnavailable,
    TooLarge,
    UploadClosed,
)
from app.ports import UploadHandle
from tests.support.folder_server import SECRET, served
from tests.support.object_store_contract import ObjectStoreContract, StorePlace, joined, listed, soon

PART = 128 * 1024
ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FolderStore]:
    store = FolderStore(tmp_path / "store", SECRET)
    yield store
    store.close()


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


class TestFolderKeepsTheContract(ObjectStoreContract):
    @pytest.fixture
    def place(self, store: FolderStore) -> Iterator[StorePlace]:
        with served(store) as url, contextlib.closing(StorePlace(store, url, PART, reads_open_uploads=True)) as place:
            yield place


async def receive(store: FolderStore, upload: UploadHandle, number: int, *chunks: bytes) -> None:
    """Brings a part to the store without HTTP."""
    await store.receive_part(address(upload, number), arriving(*chunks), counted)


def address(upload: UploadHandle, number: int) -> PartAddress:
    return PartAddress(upload.key, number, upload.part_offset(number), upload.part_length(number))


async def arriving(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def counted(_count: int) -> None:
    """Nobody wants to know."""


def data_extents(path: Path) -> list[tuple[int, int]]:
    """Where a file has data, as (start, end)."""
    extents = []
    with open(path, "rb") as file:
        size, end = os.fstat(file.fileno()).st_size, 0
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            extents.append((start, end))
    return extents


class PausedBody:
    """A body whose second half comes when it is let go."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.half_read = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        half = len(self._content) // 2
        yield self._content[:half]
        self.half_read.set()
        await self.go_on.wait()
        yield self._content[half:]


def test_blocks_of_zeros_are_left_as_holes(store: FolderStore, runner: asyncio.Runner) -> None:
    data = os.urandom(HOLE_BLOCK)
    content = data + bytes(3 * HOLE_BLOCK) + data + bytes(2 * HOLE_BLOCK)
    upload = runner.run(store.open_upload("uploads/one", len(content), len(content)))
    runner.run(receive(store, upload, 1, content))
    runner.run(store.seal_upload(upload))
    path = store.path("uploads/one")
    assert path.read_bytes() == content
    assert data_extents(path) == [(0, HOLE_BLOCK), (4 * HOLE_BLOCK, 5 * HOLE_BLOCK)]


def test_a_hole_does_not_depend_on_how_the_bytes_were_cut(store: FolderStore, runner: asyncio.Runner) -> None:
    content = bytes(HOLE_BLOCK) + b"\0" * 5000 + b"x" + bytes(HOLE_BLOCK - 5001) + bytes(HOLE_BLOCK)
    upload = runner.run(store.open_upload("uploads/one", len(content), len(content)))
    cut = [content[start : start + 1000] for start in range(0, len(content), 1000)]
    runner.run(receive(store, upload, 1, *cut))
    runner.run(store.seal_upload(upload))
    path = store.path("uploads/one")
    assert path.read_bytes() == content
    assert data_extents(path) == [(HOLE_BLOCK, 2 * HOLE_BLOCK)]


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.booleans(), st.integers(1, 3 * HOLE_BLOCK)), max_size=8),
    cuts=st.lists(st.integers(0, 24 * HOLE_BLOCK), max_size=8),
    offset=st.integers(0, 2 * HOLE_BLOCK),
)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[bool, int]], cuts: list[int], offset: int
) -> None:
    content = b"".join((b"x" if has_data else b"\0") * length for has_data, length in pieces)
    path = tmp_path_factory.mktemp("sparse") / "file"
    with open(path, "w+b") as file:
        file.truncate(offset + len(content))
        writer = SparseWriter(file.fileno(), offset)
        ends = [*sorted(cut for cut in cuts if cut < len(content)), len(content)]
        for start, end in zip([0, *ends], ends, strict=False):
            writer.write(content[start:end])
        assert path.read_bytes() == bytes(offset) + content
    blocks = range(-(-offset // HOLE_BLOCK), (offset + len(content)) // HOLE_BLOCK)
    for start in (block * HOLE_BLOCK for block in blocks):
        zero = not any(content[start - offset : start - offset + HOLE_BLOCK])
        inside = [e for e in data_extents(path) if e[0] < start + HOLE_BLOCK and e[1] > start]
        assert bool(inside) != zero
    path.unlink()


def test_a_part_sent_again_leaves_holes_where_bytes_were(store: FolderStore, runner: asyncio.Runner) -> None:
    upload = runner.run(store.open_upload("uploads/one", 3 * PART, PART))
    for number in (1, 2, 3):
        runner.run(receive(store, upload, number, os.urandom(PART)))
    runner.run(receive(store, upload, 2, bytes(PART)))
    runner.run(store.seal_upload(upload))
    assert data_extents(store.path("uploads/one")) == [(0, PART), (2 * PART, 3 * PART)]


def test_bytes_of_a_part_that_broke_off_are_not_found_under_holes(store: FolderStore, runner: asyncio.Runner) -> None:
    upload = runner.run(store.open_upload("uploads/one", PART, PART))
    with pytest.raises(InvalidInput):
        runner.run(receive(store, upload, 1, b"x" * (PART - 1)))
    assert runner.run(store.receipt(upload)).parts == []
    runner.run(receive(store, upload, 1, bytes(PART)))
    runner.run(store.seal_upload(upload))
    assert store.path("uploads/one").read_bytes() == bytes(PART)


def test_a_part_that_was_here_is_missing_when_sending_it_again_fails(
    store: FolderStore, runner: asyncio.Runner
) -> None:
    upload = runner.run(store.open_upload("uploads/one", PART, PART))
    runner.run(receive(store, upload, 1, b"x" * PART))
    with pytest.raises(InvalidInput):
        runner.run(receive(store, upload, 1, b"y"))
    with pytest.raises(PartsMissing) as refusal:
        runner.run(store.seal_upload(upload))
    assert refusal.value.numbers == (1,)


def test_a_body_that_is_too_long_is_refused(store: FolderStore, runner: asyncio.Runner) -> None:
    upload = runner.run(store.open_upload("uploads/one", 2 * PART, PART))
    runner.run(receive(store, upload, 2, b"y" * PART))
    with pytest.raises(TooLarge):
        runner.run(receive(store, upload, 1, b"x" * PART, b"x"))
    receipt = runner.run(store.receipt(upload))
    assert (receipt.parts, receipt.received_bytes) == ([2], PART)


def test_zeros_count_as_bytes_that_came(store: FolderStore, runner: asyncio.Runner) -> None:
    upload = runner.run(store.open_upload("uploads/one", PART, PART))
    assert runner.run(store.receipt(upload)).last_byte_at is None
    runner.run(receive(store, upload, 1, bytes(PART)))
    assert runner.run(store.receipt(upload)).last_byte_at is not None


def test_an_upload_with_an_arriving_part_is_not_sealed(store: FolderStore, runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        upload = await store.open_upload("uploads/one", PART, PART)
        await receive(store, upload, 1, b"a" * PART)
        body = PausedBody(b"b" * PART)
        again = asyncio.create_task(store.receive_part(address(upload, 1), aiter(body), counted))
        await body.half_read.wait()
        with pytest.raises(PartsArriving):
            await store.seal_upload(upload)
        with pytest.raises(PartsArriving):
            await receive(store, upload, 1, b"c" * PART)
        body.go_on.set()
        await again
        await store.seal_upload(upload)
        assert await joined(store.read("uploads/one")) == b"b" * PART

    runner.run(scenario())


def test_locks_and_marks_hold_between_stores_of_one_folder(
    store: FolderStore, tmp_path: Path, runner: asyncio.Runner
) -> None:
    async def scenario(other: FolderStore) -> None:
        upload = await store.open_upload("uploads/one", 2 * PART, PART)
        await receive(other, upload, 2, b"b" * PART)
        body = PausedBody(b"a" * PART)
        first = asyncio.create_task(store.receive_part(address(upload, 1), aiter(body), counted))
        await body.half_read.wait()
        with pytest.raises(PartsArriving):
            await other.seal_upload(upload)
        body.go_on.set()
        await first
        assert (await other.receipt(upload)).parts == [1, 2]
        await asyncio.gather(other.seal_upload(upload), store.seal_upload(upload), other.seal_upload(upload))
        assert await joined(other.read("uploads/one")) == b"a" * PART + b"b" * PART
        assert list((tmp_path / "store" / "open").iterdir()) == []

    with contextlib.closing(FolderStore(tmp_path / "store", SECRET)) as other:
        runner.run(scenario(other))


def test_aborting_cuts_an_arriving_part_off(store: FolderStore, tmp_path: Path, runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        upload = await store.open_upload("uploads/one", PART, PART)
        body = PausedBody(b"a" * PART)
        part = asyncio.create_task(store.receive_part(address(upload, 1), aiter(body), counted))
        await body.half_read.wait()
        await store.abort_upload(upload)
        assert list((tmp_path / "store" / "open").iterdir()) == []
        body.go_on.set()
        with pytest.raises(UploadClosed):
            await part

    runner.run(scenario())


def test_aborting_frees_the_bytes_while_they_are_still_open(
    store: FolderStore, tmp_path: Path, runner: asyncio.Runner
) -> None:
    upload = runner.run(store.open_upload("uploads/one", 2 * PART, PART))
    runner.run(receive(store, upload, 1, b"a" * PART))
    with open(tmp_path / "store" / "open" / "uploads+one" / "data", "rb") as data:
        runner.run(store.abort_upload(upload))
        assert os.fstat(data.fileno()).st_blocks == 0


def test_a_part_that_nobody_waits_for_is_let_go(store: FolderStore, runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        upload = await store.open_upload("uploads/one", PART, PART)
        body = PausedBody(b"a" * PART)
        part = asyncio.create_task(store.receive_part(address(upload, 1), aiter(body), counted))
        await body.half_read.wait()
        part.cancel()
        with pytest.raises(asyncio.CancelledError):
            await part
        await receive(store, upload, 1, b"b" * PART)
        await store.seal_upload(upload)

    runner.run(scenario())
    assert store.path("uploads/one").read_bytes() == b"b" * PART


def test_a_crash_between_sealing_and_clearing_up_is_mended_by_sealing_again(
    store: FolderStore, tmp_path: Path, runner: asyncio.Runner
) -> None:
    upload = runner.run(store.open_upload("uploads/one", PART, PART))
    runner.run(receive(store, upload, 1, b"a" * PART))
    leftover = tmp_path / "store" / "open" / "uploads+one"
    store.path("uploads/one").parent.mkdir()
    (leftover / "data").rename(store.path("uploads/one"))

    assert runner.run(store.receipt(upload)).sealed
    with pytest.raises(UploadClosed):
        runner.run(receive(store, upload, 1, b"b" * PART))
    assert {key for key, _ in runner.run(listed(store))} == {"uploads/one"}
    runner.run(store.seal_upload(upload))
    assert not leftover.exists()
    assert store.path("uploads/one").read_bytes() == b"a" * PART


def test_a_crash_in_the_midst_of_aborting_is_mended_by_the_sweep(
    store: FolderStore, tmp_path: Path, runner: asyncio.Runner
) -> None:
    upload = runner.run(store.open_upload("uploads/one", PART, PART))
    runner.run(receive(store, upload, 1, b"a" * PART))
    leftover = tmp_path / "store" / "open" / "uploads+one"
    (leftover / "data").unlink()

    with pytest.raises(UploadClosed):
        runner.run(store.seal_upload(upload))
    with pytest.raises(UploadClosed):
        runner.run(store.receipt(upload))
    with pytest.raises(UploadClosed):
        runner.run(receive(store, upload, 1, b"b" * PART))
    assert [key for key, _ in runner.run(listed(store))] == ["uploads/one"]
    runner.run(store.delete("uploads/one"))
    assert not leftover.exists()


def test_opening_again_keeps_what_has_arrived(store: FolderStore, runner: asyncio.Runner) -> None:
    upload = runner.run(store.open_upload("uploads/one", 2 * PART, PART))
    runner.run(receive(store, upload, 2, b"a" * PART))
    assert runner.run(store.open_upload("uploads/one", 2 * PART, PART)) == upload
    assert runner.run(store.receipt(upload)).parts == [2]


def test_a_sealed_object_is_not_opened_again(store: FolderStore, runner: asyncio.Runner) -> None:
    upload = runner.run(store.open_upload("uploads/one", PART, PART))
    runner.run(receive(store, upload, 1, b"a" * PART))
    runner.run(store.seal_upload(upload))
    with pytest.raises(UploadClosed):
        runner.run(store.open_upload("uploads/one", PART, PART))
    assert store.path("uploads/one").read_bytes() == b"a" * PART


def test_when_bytes_can_not_be_made_safe_no_part_is_believed(
    store: FolderStore, tmp_path: Path, runner: asyncio.Runner
) -> None:
    upload = runner.run(store.open_upload("uploads/one", 2 * PART, PART))
    runner.run(receive(store, upload, 1, b"a" * PART))
    reading, writing = os.pipe()  # a file that fdatasync fails for
    with open(tmp_path / "store" / "open" / "uploads+one" / "marks", "r+b") as marks:
        with pytest.raises(OSError, match="Invalid argument"):
            sync_or_forget(writing, marks.fileno())
    os.close(reading)
    os.close(writing)
    with pytest.raises(PartsMissing) as refusal:
        runner.run(store.seal_upload(upload))
    assert refusal.value.numbers == (1, 2)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "..",
        "../x",
        "a/../b",
        "/etc/passwd",
        "a//b",
        "a/",
        ".hidden",
        "A",
        "a b",
        "a+b",
        "a\n",
        "a\0",
        "x" * 201,
    ],
)
def test_what_is_no_key_never_becomes_a_path(store: FolderStore, runner: asyncio.Runner, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        store.path(key)
    with pytest.raises(ValueError, match="not a key"):
        runner.run(store.open_upload(key, 1, 1))
    with pytest.raises(ValueError, match="not a key"):
        runner.run(store.delete(key))
    with pytest.raises(ValueError, match="not a key"):
        store.sign_download(key, "name", soon())


def test_a_part_that_an_upload_does_not_have_is_not_signed(store: FolderStore) -> None:
    upload = UploadHandle("uploads/one", "", 2 * PART, PART)
    for number in (0, 3, -1):
        with pytest.raises(ValueError, match="no part"):
            store.sign_part(upload, number, soon())


def test_deleting_drops_an_open_upload_too(store: FolderStore, tmp_path: Path, runner: asyncio.Runner) -> None:
    runner.run(store.open_upload("uploads/one", PART, PART))
    runner.run(store.delete("uploads/one"))
    assert list((tmp_path / "store" / "open").iterdir()) == []


def test_files_of_others_are_not_listed(store: FolderStore, tmp_path: Path, runner: asyncio.Runner) -> None:
    (tmp_path / "store" / "objects" / ".Trash").write_bytes(b"")
    (tmp_path / "store" / "open" / "lost+found").write_bytes(b"")
    (tmp_path / "store" / "open" / "Not Ours").mkdir()
    runner.run(store.open_upload("uploads/one", PART, PART))
    assert [key for key, _ in runner.run(listed(store))] == ["uploads/one"]


def test_reading_goes_on_when_the_object_is_deleted_meanwhile(store: FolderStore, runner: asyncio.Runner) -> None:
    content = os.urandom(3 * 1024 * 1024 + 5)
    path = store.path("blobs/one")
    path.parent.mkdir()
    path.write_bytes(content)

    async def scenario() -> bytes:
        chunks = store.read("blobs/one")
        first = await anext(chunks)
        await store.delete("blobs/one")
        return first + await joined(chunks)

    assert runner.run(scenario()) == content
    with pytest.raises(ObjectMissing):
        runner.run(joined(store.read("blobs/one")))


def test_a_folder_that_went_away_is_told_with_its_reason(
    store: FolderStore, tmp_path: Path, runner: asyncio.Runner
) -> None:
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match="No such file or directory"):
        runner.run(store.check())
    with pytest.raises(StoreUnavailable):
        runner.run(store.open_upload("uploads/one", PART, PART))
    assert not (tmp_path / "store").exists()


def test_a_folder_that_can_not_be_made_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable):
        FolderStore(tmp_path / "file" / "store", SECRET)


@contextlib.contextmanager
def mounted(path: Path, kind: str, options: str) -> Iterator[Path]:
    """A file system of this kind, in memory."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    path.mkdir()
    command = ["mount", "-t", kind, "-o", options, kind, str(path)]
    mounting = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if mounting.returncode != 0:
        pytest.skip(f"can't mount here: {mounting.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], timeout=30, check=True)


def test_a_full_disk_refuses_the_part_and_keeps_the_upload(tmp_path: Path, runner: asyncio.Runner) -> None:
    content = os.urandom(3 * PART)
    with mounted(tmp_path / "disk", "tmpfs", "size=1m") as disk:
        ballast = disk / "ballast"
        store = FolderStore(disk / "store", SECRET)
        with served(store) as url, contextlib.closing(StorePlace(store, url, PART)) as place:
            upload = place.open(len(content))
            assert place.send_part(upload, 1, content).status_code == 200
            with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            ballast.write_bytes(ballast.read_bytes()[: -PART // 2])
            full = place.send_part(upload, 2, content)
            assert (full.status_code, full.json()["error"]["code"]) == (507, "STORE_FULL")
            with pytest.raises(StoreFull):
                place.do(receive(store, upload, 2, content[PART : 2 * PART]))
            assert place.do(store.receipt(upload)).parts == [1]
            ballast.unlink()
            for number in (2, 3):
                assert place.send_part(upload, number, content).status_code == 200
            place.do(store.seal_upload(upload))
            assert place.content() == content
        store.close()


def test_where_no_hole_can_be_punched_old_bytes_are_overwritten(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "ramfs", "mode=0755") as disk, open(disk / "file", "w+b") as file:
        file.write(b"x" * 3 * PART)
        file.flush()
        clear_range(file.fileno(), PART, PART + 5)
        file.seek(0)
        assert file.read() == b"x" * PART + bytes(PART + 5) + b"x" * (PART - 5)


class ServingProcess:
    """A server that can be killed."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, "-m", "tests.support.folder_server", str(root)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        self.url = f"http://127.0.0.1:{self.next_number()}"

    def next_number(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()


def test_a_part_cut_off_by_kill_9_is_missing_and_can_be_sent_again(store: FolderStore, tmp_path: Path) -> None:
    part_size = 1024 * 1024
    content = os.urandom(part_size) + bytes(part_size // 2) + os.urandom(part_size // 2)
    first = ServingProcess(tmp_path / "store")
    with contextlib.closing(StorePlace(store, first.url, part_size)) as place:
        upload = place.open(len(content))
        assert place.send_part(upload, 1, content).status_code == 200
        request = store.sign_part(upload, 2, soon())
        head = f"PUT {request.url} HTTP/1.1\r\nHost: test\r\nContent-Length: {part_size}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(first.url.rpartition(":")[2]))) as connection:
            connection.sendall(head.encode() + b"x" * (part_size - 1))
            written = 0
            while written < part_size + 256 * 1024:  # all of part 1, and some of part 2
                written += first.next_number()
            with pytest.raises(PartsArriving):
                place.do(store.seal_upload(upload))
            first.kill()
        receipt = place.do(store.receipt(upload))
        assert (receipt.parts, receipt.received_bytes) == ([1], part_size)

        second = ServingProcess(tmp_path / "store")
        place.base_url = second.url
        assert place.send_part(upload, 2, content).status_code == 200
        second.kill()
        place.do(store.seal_upload(upload))
        assert place.content() == content


def test_an_arrived_part_is_released_even_while_a_starting_process_holds_its_files(
    store: FolderStore, runner: asyncio.Runner
) -> None:
    upload = runner.run(store.open_upload("uploads/one", PART, PART))
    inherited: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        yield bytes(PART)
        # What a fork does: the same open files, held for a little longer.
        inherited.extend(os.dup(int(fd)) for fd in os.listdir("/proc/self/fd") if _is_a_mark(fd))

    runner.run(store.receive_part(address(upload, 1), body(), counted))
    try:
        assert inherited
        runner.run(store.seal_upload(upload))
    finally:
        for descriptor in inherited:
            os.close(descriptor)


def _is_a_mark(descriptor: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").endswith("/marks")
    except FileNotFoundError:
        return False
