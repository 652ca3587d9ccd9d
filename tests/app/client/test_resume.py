"""What is remembered of uploads, and that two processes do not do the same one."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.client.errors import UnusableFile
from app.client.transfer.resume import Begun, cache_folder, claimed

IDENTITY = {"gateway": "http://host/graphql", "path": "/disk.vmdk"}
SOURCE = {"device": 1, "inode": 2, "size": 3, "modified": 4, "changed": 5, "sha256": None}

# Says "claimed", or the code of the error, and then holds on until its input ends.
CLAIM = """
import json, sys
from pathlib import Path
from app.client.errors import UnusableFile
from app.client.transfer.resume import claimed
try:
    with claimed(Path(sys.argv[1]), json.loads(sys.argv[2])):
        print("claimed", flush=True)
        sys.stdin.read()
except UnusableFile as error:
    print(error.code, flush=True)
"""


def other_process(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CLAIM, str(folder), json.dumps(IDENTITY)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said_by(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_what_was_begun_is_known_to_the_next_run_until_it_is_forgotten(tmp_path: Path) -> None:
    with claimed(tmp_path, IDENTITY) as record:
        assert record.read() is None
        begun = record.begin(SOURCE)
        record.made(begun, "img_1")

    with claimed(tmp_path, IDENTITY) as record:
        assert record.read() == Begun(begun.idempotency_key, SOURCE, "img_1")
        record.forget()
        record.forget()
        assert record.read() is None

    assert list(tmp_path.iterdir()) == []


def test_another_file_another_project_or_another_wish_is_another_upload(tmp_path: Path) -> None:
    with claimed(tmp_path, IDENTITY) as record, claimed(tmp_path, IDENTITY | {"name": "x"}) as other:
        record.begin(SOURCE)
        assert other.read() is None


def test_only_the_owner_can_read_what_is_remembered(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "uploads"
    before = os.umask(0)
    try:
        with claimed(folder, IDENTITY) as record:
            record.begin(SOURCE)
            modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    finally:
        os.umask(before)

    assert modes == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


# What versions wrote that did not keep which bytes an upload was begun with.
WITHOUT_SOURCE = '{"idempotency_key": "0123456789abcdef", "image_id": "img_1"}'


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"idempotency_key": 1, "source": {}, "image_id": 2}', "\x00\xff", WITHOUT_SOURCE],
)
def test_a_memory_that_makes_no_sense_counts_as_none(tmp_path: Path, text: str) -> None:
    with claimed(tmp_path, IDENTITY) as record:
        record.begin(SOURCE)
        (kept,) = tmp_path.glob("*.json")
        kept.write_text(text)

        assert record.read() is None


def test_a_memory_of_an_earlier_version_is_not_gone_on_with(tmp_path: Path) -> None:
    named = hashlib.sha256(json.dumps({**IDENTITY, "changed": SOURCE["modified"]}, sort_keys=True).encode())
    before = tmp_path / f"{named.hexdigest()}.json"
    before.write_text(WITHOUT_SOURCE)

    with claimed(tmp_path, IDENTITY) as record:
        assert record.read() is None
        record.begin(SOURCE)

    assert before.read_text() == WITHOUT_SOURCE
    os.utime(before, (0, 0))
    with claimed(tmp_path, IDENTITY) as record:
        assert record.read() is not None
    assert not before.exists()


def test_a_second_process_is_told_that_one_is_at_it(tmp_path: Path) -> None:
    first = other_process(tmp_path)
    try:
        assert said_by(first) == "claimed"

        with pytest.raises(UnusableFile) as refused, claimed(tmp_path, IDENTITY):
            pass
        assert refused.value.code == "UPLOAD_RUNNING"
    finally:
        first.communicate("", timeout=30)

    with claimed(tmp_path, IDENTITY):
        second = other_process(tmp_path)
        assert second.communicate("", timeout=30)[0].strip() == "UPLOAD_RUNNING"


def test_a_process_that_was_killed_leaves_the_way_free(tmp_path: Path) -> None:
    first = other_process(tmp_path)
    assert said_by(first) == "claimed"
    first.kill()
    first.communicate(timeout=30)

    with claimed(tmp_path, IDENTITY) as record:
        record.begin(SOURCE)


def test_uploads_left_alone_for_a_month_are_dropped_and_those_in_progress_are_kept(tmp_path: Path) -> None:
    old = time.time() - 31 * 24 * 3600
    with claimed(tmp_path, IDENTITY) as record:
        record.begin(SOURCE)
        with claimed(tmp_path, {"other": "left"}) as left:
            left.begin(SOURCE)
        for path in tmp_path.iterdir():
            os.utime(path, (old, old))

        with claimed(tmp_path, {"other": "new"}):
            assert record.read() is not None
            assert len(list(tmp_path.glob("*.json"))) == 1
            with pytest.raises(UnusableFile), claimed(tmp_path, IDENTITY):
                pass


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UnusableFile, match="file"), claimed(tmp_path / "file" / "uploads", IDENTITY):
        pass


def test_the_cache_is_where_the_desktop_says() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/cache"}) == Path("/cache/image-gateway/uploads")
    assert cache_folder({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache/image-gateway/uploads"
    assert cache_folder({}) == Path.home() / ".cache/image-gateway/uploads"
