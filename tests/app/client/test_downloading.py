"""Downloads: complete, verified, resumed, and never over another file."""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.client.errors import ClientError, NoAnswer, NotAllowed, NotFound, Refused, UnusableFile
from app.client.generated.fragments import ImageFields
from app.client.retrying import RetryPolicy
from app.client.terminal.reporting import Reporter
from app.client.transfer.downloading import Downloading, file_name_for
from tests.support import answers
from tests.support.scripted_server import Asked, Reply, ScriptedServer, data, session_with

POLICY = RetryPolicy(20, first_pause=0.001, longest_pause=0.002)
CONTENT = os.urandom(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Store:
    """One image behind a signed address; `trouble` may answer the download that comes as the n-th."""

    def __init__(self, trouble: Callable[[int], Reply | None] = lambda _times: None) -> None:
        self.trouble = trouble
        self.sha256: str | None = SHA256
        self.active = True
        self.ranges: list[str | None] = []

    def __call__(self, asked: Asked) -> Reply:
        if asked.method == "POST":
            request = {"method": "GET", "url": f"http://{asked.headers['host']}/objects/blob", "headers": []}
            status = "ACTIVE" if self.active else "SAVING"
            known = {"id": "img_1", "status": status, "sha256": self.sha256}
            return data(image=known | {"download": request if self.active else None})
        assert "authorization" not in asked.headers
        wanted = asked.headers.get("range")
        self.ranges.append(wanted)
        return self.trouble(len(self.ranges)) or self._content(wanted)

    def _content(self, wanted: str | None) -> Reply:
        if wanted is None:
            return Reply(CONTENT)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(CONTENT):
            return Reply(b"", 416, {"Content-Range": f"bytes */{len(CONTENT)}"})
        content_range = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        return Reply(CONTENT[start:], 206, {"Content-Range": content_range})


async def fetch(
    store: Store, target: Path, *, overwrite: bool = False, policy: RetryPolicy = POLICY
) -> tuple[dict[str, Any], ScriptedServer]:
    async with session_with(store) as (at, server):
        image = ImageFields.model_validate(answers.image())
        download = Downloading(at.api, at.http, image, target, overwrite, Reporter(), policy)
        return await download.fetch(), server


def only_part_of(folder: Path) -> Path:
    (part,) = folder.glob("*.part")
    return part


def test_a_download_is_whole_and_checked(tmp_path: Path) -> None:
    target = tmp_path / "disk.qcow2"

    done, _ = asyncio.run(fetch(Store(), target))

    assert target.read_bytes() == CONTENT
    assert done == {
        "imageId": "img_1",
        "path": str(target),
        "size": len(CONTENT),
        "sha256": SHA256,
        "verified": True,
    }
    assert list(tmp_path.iterdir()) == [target]


def test_a_download_that_was_cut_off_goes_on_where_it_ended(tmp_path: Path) -> None:
    target = tmp_path / "disk.qcow2"
    cut = Store(lambda _times: Reply(CONTENT[:1000], cut=True))
    with pytest.raises(ClientError):
        asyncio.run(fetch(cut, target, policy=RetryPolicy(0)))
    assert only_part_of(tmp_path).read_bytes() == CONTENT[:1000]
    assert not target.exists()

    store = Store()
    asyncio.run(fetch(store, target))

    assert store.ranges == ["bytes=1000-"]
    assert target.read_bytes() == CONTENT


def test_a_connection_that_breaks_is_made_good_within_one_run(tmp_path: Path) -> None:
    target = tmp_path / "disk.qcow2"
    replies = {1: Reply(CONTENT[:1000], cut=True), 2: Reply(b"", 503), 3: Reply(b"", 403)}
    store = Store(replies.get)

    asyncio.run(fetch(store, target))

    assert store.ranges == [None, *["bytes=1000-"] * 3]
    assert target.read_bytes() == CONTENT


def test_a_download_outlives_any_number_of_addresses_that_expire_on_the_way(tmp_path: Path) -> None:
    target = tmp_path / "disk.qcow2"
    expired = Reply(json.dumps({"error": {"code": "ADDRESS_EXPIRED", "message": "It has expired."}}).encode(), 403)

    class Expiring(Store):
        """Every address returns some bytes; the next request finds it expired, twice."""

        def __call__(self, asked: Asked) -> Reply:
            if asked.method == "POST":
                return super().__call__(asked)
            self.ranges.append(asked.headers.get("range"))
            if len(self.ranges) % 3:
                return expired
            start = int((self.ranges[-1] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            return Reply(CONTENT[start : start + 60_000], 206, self._range(start), cut=start + 60_000 < len(CONTENT))

        def _range(self, start: int) -> dict[str, str]:
            return {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"}

    store = Expiring()

    done, server = asyncio.run(fetch(store, target))

    assert target.read_bytes() == CONTENT
    assert done["verified"]
    assert len([wanted for wanted in store.ranges if wanted == "bytes=240000-"]) == 3
    assert len([asked for asked in server.asked if asked.method == "POST"]) > len(store.ranges)


def test_a_download_whose_right_is_gone_ends_at_once(tmp_path: Path) -> None:
    hint = "Check the id: the image may have been deleted."
    gone = {"error": {"code": "NOT_FOUND", "message": "There is no such image.", "hint": hint}}
    store = Store(lambda _times: Reply(json.dumps(gone).encode(), 404))

    with pytest.raises(NotFound, match="no such image"):
        asyncio.run(fetch(store, tmp_path / "disk.qcow2"))

    assert len(store.ranges) == 1


def test_a_download_of_which_only_the_last_step_was_missing_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "disk.qcow2"
    with pytest.raises(ClientError):
        asyncio.run(fetch(Store(lambda _times: Reply(CONTENT, cut=True)), target, policy=RetryPolicy(0)))

    asyncio.run(fetch(Store(), target))

    assert target.read_bytes() == CONTENT


def test_a_store_that_knows_no_ranges_sends_everything_again(tmp_path: Path) -> None:
    target = tmp_path / "disk.qcow2"
    replies = {1: Reply(CONTENT[:1000], cut=True), 2: Reply(CONTENT)}

    asyncio.run(fetch(Store(replies.get), target))

    assert target.read_bytes() == CONTENT


def test_a_range_that_was_not_asked_for_is_not_taken(tmp_path: Path) -> None:
    replies = {
        1: Reply(CONTENT[:1000], cut=True),
        2: Reply(CONTENT[5:], 206, {"Content-Range": f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}"}),
    }

    with pytest.raises(NoAnswer, match="range"):
        asyncio.run(fetch(Store(replies.get), tmp_path / "disk.qcow2"))


def test_bytes_that_are_not_the_images_never_become_the_file(tmp_path: Path) -> None:
    store = Store()
    store.sha256 = "00" * 32

    with pytest.raises(NoAnswer, match=SHA256):
        asyncio.run(fetch(store, tmp_path / "disk.qcow2"))

    assert list(tmp_path.iterdir()) == []


def test_an_image_without_a_checksum_is_downloaded_but_not_called_checked(tmp_path: Path) -> None:
    store = Store()
    store.sha256 = None

    done, _ = asyncio.run(fetch(store, tmp_path / "disk.qcow2"))

    assert done["verified"] is False
    assert done["sha256"] == SHA256


def test_a_file_that_exists_is_kept_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "disk.qcow2"
    target.write_text("mine")

    with pytest.raises(UnusableFile, match="exists"):
        asyncio.run(fetch(Store(), target))
    assert target.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [target]

    asyncio.run(fetch(Store(), target, overwrite=True))
    assert target.read_bytes() == CONTENT


def test_a_file_that_appears_meanwhile_is_kept_too(tmp_path: Path) -> None:
    target = tmp_path / "disk.qcow2"

    def appear(_times: int) -> None:
        target.write_text("mine")

    with pytest.raises(UnusableFile, match="exists"):
        asyncio.run(fetch(Store(appear), target))
    assert target.read_text() == "mine"


def test_a_folder_that_is_not_there_and_one_in_the_files_place_are_named(tmp_path: Path) -> None:
    for target in (tmp_path / "missing" / "disk.qcow2", tmp_path):
        with pytest.raises(UnusableFile, match=str(target)):
            asyncio.run(fetch(Store(), target))


def test_an_image_that_is_not_active_has_nothing_to_download(tmp_path: Path) -> None:
    store = Store()
    store.active = False

    with pytest.raises(Refused, match="SAVING"):
        asyncio.run(fetch(store, tmp_path / "disk.qcow2"))


def test_an_address_that_is_refused_however_new_it_is_ends_the_download(tmp_path: Path) -> None:
    store = Store(lambda _times: Reply(b"", 403))

    with pytest.raises(NotAllowed):
        asyncio.run(fetch(store, tmp_path / "disk.qcow2"))

    assert len(store.ranges) == 3


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        ("ubuntu-24.04", "ubuntu-24.04.qcow2"),
        ("disk.qcow2", "disk.qcow2"),
        ("../../etc/passwd", "etc_passwd.qcow2"),
        ("/etc/passwd", "etc_passwd.qcow2"),
        ("..", "img_1.qcow2"),
        ("-rf *", "rf_.qcow2"),
        ("\u202egpj\x00.exe", "gpj_.exe.qcow2"),
        ("画", "img_1.qcow2"),
        ("n" * 255, "n" * 200 + ".qcow2"),
    ],
)
def test_a_name_never_becomes_a_path(name: str, file_name: str) -> None:
    assert file_name_for(ImageFields.model_validate(answers.image(name=name))) == file_name
