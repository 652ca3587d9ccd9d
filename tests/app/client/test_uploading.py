"""An upload as a whole: from its first byte, or from where another run was interrupted."""

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from app.client.errors import ClientError, Overloaded, Refused, UnusableFile
from app.client.generated.enums import DiskFormat
from app.client.generated.fragments import ImageFields
from app.client.generated.input_types import CreateImageInput, ImageSourceInput, UploadInput
from app.client.retrying import RetryPolicy
from app.client.terminal.reporting import Reporter
from app.client.transfer.disk_file import opened
from app.client.transfer.resume import Begun, claimed
from app.client.transfer.uploading import Uploading
from tests.support import answers
from tests.support.changed_files import Change, copied_over, replaced, rewritten, until_seen
from tests.support.scripted_server import Asked, Reply, data, errors, session_with

POLICY = RetryPolicy(20, first_pause=0.001, longest_pause=0.002)
SIZE = 100
IDENTITY = {"file": "disk"}

Trouble = Callable[[Asked], Reply | None]


class Gateway:
    """A gateway with one image of one part, whose answers `trouble` may replace before or after they take effect."""

    def __init__(self) -> None:
        self.made: dict[str, str] = {}
        self.aborted: list[str] = []
        self.status = "QUEUED"
        self.open = True
        self.part: bytes | None = None
        self.before: Trouble = lambda _asked: None
        self.after: Trouble = lambda _asked: None

    def __call__(self, asked: Asked) -> Reply:
        return self.before(asked) or self._after(asked, self._done(asked))

    def _after(self, asked: Asked, reply: Reply) -> Reply:
        return self.after(asked) or reply

    def _done(self, asked: Asked) -> Reply:
        if asked.method == "PUT":
            self.part = asked.body
            return Reply()
        match asked.operation:
            case "CreateImage":
                return self._created(asked.variables["input"]["idempotencyKey"])
            case "ImageAndUpload":
                known = asked.variables["by"]["id"] in self.made.values()
                return data(image=self._image(asked.variables["by"]["id"])) if known else errors("NOT_FOUND")
            case "MissingParts":
                return self._missing(asked)
            case "CompleteUpload":
                if self.part is None:
                    return user_error("completeUpload", "NOT_READY")
                self.open = False
                image_id = asked.variables["input"]["uploadId"].replace("upl", "img")
                return data(completeUpload={"image": answers.image(image_id, "QUEUED"), "userErrors": []})
            case "AbortUpload":
                self.aborted.append(asked.variables["input"]["uploadId"])
                self.status, self.open = "ERROR", False
                return data(abortUpload={"userErrors": []})
        raise AssertionError(asked)

    def _created(self, key: str) -> Reply:
        if key not in self.made:
            self.made[key] = f"img_{len(self.made) + 1}"
            self.status, self.open, self.part = "QUEUED", True, None
        return data(createImage={"image": self._image(self.made[key]), "userErrors": []})

    def _image(self, image_id: str) -> dict[str, Any]:
        upload = {"id": image_id.replace("img", "upl"), "size": SIZE, "partCount": 1, "receivedBytes": 0}
        return answers.image(image_id, self.status, upload=upload if self.open else None)

    def _missing(self, asked: Asked) -> Reply:
        request = {"method": "PUT", "url": f"http://{asked.headers['host']}/objects/1", "headers": []}
        node = {"number": 1, "offset": 0, "size": SIZE, "request": request}
        edges = [] if self.part is not None else [{"cursor": "1", "node": node}]
        page = {"edges": edges, "pageInfo": {"hasNextPage": False}}
        return data(node={"state": "OPEN" if self.open else "ABORTED", "parts": page})


def user_error(field: str, code: str, where: list[str] | None = None) -> Reply:
    error = {"code": code, "message": "No.", "hint": None, "field": where}
    return data(**{field: {"image": None, "userErrors": [error]}})


def once(matches: Callable[[Asked], bool], act: Callable[[], Reply | None]) -> Trouble:
    """Trouble with the first request that matches."""
    left = [act]

    def trouble(asked: Asked) -> Reply | None:
        return left.pop()() if left and matches(asked) else None

    return trouble


def operation(name: str) -> Callable[[Asked], bool]:
    return lambda asked: asked.method == "POST" and asked.operation == name


CUT = Reply(b"", 200, cut=True)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(SIZE))
    return path


class Noting(Reporter):
    """Keeps what people have to know."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


async def bring(
    gateway: Gateway, path: Path, policy: RetryPolicy = POLICY, reporter: Reporter | None = None
) -> tuple[ImageFields, list[str]]:
    """The image, and what was asked for on the way."""
    reporter = reporter or Reporter()

    async def described() -> CreateImageInput:
        file = UploadInput(file_name="disk.raw", size=SIZE, format=DiskFormat.RAW)
        return CreateImageInput(project_id="prj_1", name="disk", source=ImageSourceInput(upload=file))

    with opened(path) as file, claimed(path.parent / "cache", IDENTITY) as record:
        async with session_with(gateway) as (at, server):
            source = asdict(file.state)
            uploading = Uploading(at.api, at.http, file, source, described, record, reporter, policy, jobs=2)
            image = await uploading.upload()
        return image, ["PUT" if asked.method == "PUT" else asked.operation for asked in server.asked]


def remembered(path: Path) -> Begun | None:
    with claimed(path.parent / "cache", IDENTITY) as record:
        return record.read()


def remember(path: Path, image_id: str | None) -> Begun:
    with opened(path) as file, claimed(path.parent / "cache", IDENTITY) as record:
        begun = record.begin(asdict(file.state))
        return begun if image_id is None else record.made(begun, image_id)


def test_an_upload_makes_an_image_sends_the_file_and_completes(disk: Path) -> None:
    gateway = Gateway()

    image, asked = asyncio.run(bring(gateway, disk))

    assert image.id == "img_1"
    assert gateway.part == disk.read_bytes()
    assert asked == ["CreateImage", "MissingParts", "PUT", "CompleteUpload"]
    begun = remembered(disk)
    assert begun is not None
    assert (begun.idempotency_key, begun.image_id) == (next(iter(gateway.made)), "img_1")


def test_a_lost_answer_to_create_image_makes_no_second_image(disk: Path) -> None:
    gateway = Gateway()
    gateway.after = once(operation("CreateImage"), lambda: CUT)

    image, _ = asyncio.run(bring(gateway, disk))

    assert list(gateway.made.values()) == ["img_1"]
    assert image.id == "img_1"


def test_a_run_that_ended_before_the_answer_came_is_gone_on_with_under_the_same_key(disk: Path) -> None:
    gateway = Gateway()
    gateway.after = lambda asked: Reply(b"", 503) if operation("CreateImage")(asked) else None
    with pytest.raises(Overloaded):
        asyncio.run(bring(gateway, disk, RetryPolicy(0)))
    gateway.after = lambda _asked: None

    asyncio.run(bring(gateway, disk))

    assert list(gateway.made.values()) == ["img_1"]


def test_a_run_that_was_cut_off_is_gone_on_with(disk: Path) -> None:
    gateway = Gateway()
    gateway.made["key"] = "img_1"
    remember(disk, "img_1")

    _, asked = asyncio.run(bring(gateway, disk))

    assert asked == ["ImageAndUpload", "MissingParts", "PUT", "CompleteUpload"]


def test_a_run_that_was_cut_off_after_the_last_byte_sends_nothing(disk: Path) -> None:
    gateway = Gateway()
    gateway.made["key"], gateway.open, gateway.status = "img_1", False, "SAVING"
    remember(disk, "img_1")

    image, asked = asyncio.run(bring(gateway, disk))

    assert asked == ["ImageAndUpload"]
    assert image.status == "SAVING"


def test_an_earlier_run_whose_image_is_gone_counts_for_nothing(disk: Path) -> None:
    gateway = Gateway()
    before = remember(disk, "img_gone")

    _, asked = asyncio.run(bring(gateway, disk))

    assert asked[:2] == ["ImageAndUpload", "CreateImage"]
    assert before.idempotency_key not in gateway.made


def test_an_earlier_run_whose_image_is_in_error_counts_for_nothing(disk: Path) -> None:
    gateway = Gateway()
    before = remember(disk, "img_0")
    gateway.made[before.idempotency_key] = "img_0"
    failed = data(image=answers.image("img_0", "ERROR", upload=None))
    gateway.before = once(operation("ImageAndUpload"), lambda: failed)

    image, _ = asyncio.run(bring(gateway, disk))

    assert image.id == "img_2"
    assert gateway.part == disk.read_bytes()


def test_a_key_whose_image_was_deleted_is_given_up_for_a_new_one(disk: Path) -> None:
    gateway = Gateway()
    before = remember(disk, None)
    deleted = user_error("createImage", "NOT_FOUND", ["idempotencyKey"])
    gateway.before = once(operation("CreateImage"), lambda: deleted)

    asyncio.run(bring(gateway, disk))

    assert list(gateway.made) != [before.idempotency_key]
    assert len(gateway.made) == 1


def test_a_refused_image_is_told_and_not_remembered(disk: Path) -> None:
    gateway = Gateway()
    gateway.before = lambda _asked: user_error("createImage", "QUOTA_EXCEEDED")

    with pytest.raises(Refused) as refused:
        asyncio.run(bring(gateway, disk))

    assert refused.value.code == "QUOTA_EXCEEDED"
    assert remembered(disk) is None


def test_a_lost_answer_to_complete_upload_is_asked_for_again(disk: Path) -> None:
    gateway = Gateway()
    gateway.after = once(operation("CompleteUpload"), lambda: CUT)

    _, asked = asyncio.run(bring(gateway, disk))

    assert asked[-2:] == ["CompleteUpload", "CompleteUpload"]


def test_a_part_that_the_gateway_lost_is_sent_again(disk: Path) -> None:
    gateway = Gateway()

    def lose() -> None:
        gateway.part = None

    gateway.before = once(operation("CompleteUpload"), lose)

    _, asked = asyncio.run(bring(gateway, disk))

    assert asked.count("PUT") == 2
    assert gateway.part == disk.read_bytes()


def test_an_upload_that_is_refused_while_it_sends_ends_with_its_image(disk: Path) -> None:
    gateway = Gateway()

    def refuse() -> Reply:
        gateway.open, gateway.status = False, "ERROR"
        return Reply(json.dumps({"error": {"code": "UPLOAD_CLOSED", "message": "No.", "hint": None}}).encode(), 409)

    gateway.before = once(lambda asked: asked.method == "PUT", refuse)

    image, asked = asyncio.run(bring(gateway, disk))

    assert image.status == "ERROR"
    assert asked == ["CreateImage", "MissingParts", "PUT", "ImageAndUpload"]


def test_a_file_that_changes_while_it_is_sent_is_never_completed(disk: Path) -> None:
    gateway = Gateway()
    gateway.before = once(lambda asked: asked.method == "PUT", lambda: os.utime(disk, ns=(0, 0)))

    with pytest.raises(UnusableFile, match="changed"):
        asyncio.run(bring(gateway, disk))

    assert gateway.aborted == ["upl_1"]
    assert remembered(disk) is None


def test_what_can_not_be_aborted_at_once_is_aborted_by_the_next_run(disk: Path) -> None:
    gateway = Gateway()
    gateway.before = once(lambda asked: asked.method == "PUT", lambda: os.utime(disk, ns=(0, 0)))
    gateway.after = lambda asked: Reply(b"", 503) if operation("AbortUpload")(asked) else None
    with pytest.raises(UnusableFile, match="changed"):
        asyncio.run(bring(gateway, disk))
    gateway.status, gateway.open, gateway.part = "QUEUED", True, None
    gateway.aborted.clear()
    gateway.after = lambda _asked: None

    image, _ = asyncio.run(bring(gateway, disk))

    assert gateway.aborted == ["upl_1"]
    assert image.id == "img_2"


def test_a_gateway_that_stays_away_ends_the_run_and_the_next_one_goes_on(disk: Path) -> None:
    gateway = Gateway()
    gateway.before = lambda asked: Reply(b"", 503) if asked.method == "PUT" else None
    with pytest.raises(ClientError):
        asyncio.run(bring(gateway, disk, RetryPolicy(0)))
    gateway.before = lambda _asked: None

    _, asked = asyncio.run(bring(gateway, disk))

    assert asked[0] == "ImageAndUpload"
    assert len(gateway.made) == 1


# ---------------------------------------------------------------- files that have changed between two runs


def begun_before(gateway: Gateway, path: Path) -> None:
    """An earlier run has had img_1 made of what the file was then."""
    begun = remember(path, "img_1")
    gateway.made[begun.idempotency_key] = "img_1"


ABORTED = (
    "disk.raw or its description has changed since the upload of disk (img_1) began. "
    "That upload was aborted; the file is uploaded from the start."
)
STAYS = (
    "disk.raw or its description has changed since the upload of disk (img_1) began. "
    "That image stays; the file is uploaded as a new image."
)


@pytest.mark.parametrize("change", [copied_over, replaced, rewritten])
def test_an_upload_of_what_the_file_was_is_aborted_and_another_begun(disk: Path, change: Change) -> None:
    gateway, reporter = Gateway(), Noting()
    begun_before(gateway, disk)
    content = os.urandom(SIZE)
    change(disk, content)

    _, asked = asyncio.run(bring(gateway, disk, reporter=reporter))

    assert asked == ["ImageAndUpload", "AbortUpload", "CreateImage", "MissingParts", "PUT", "CompleteUpload"]
    assert (gateway.aborted, gateway.part) == (["upl_1"], content)
    assert reporter.notes == [ABORTED]
    begun = remembered(disk)
    assert begun is not None
    assert begun.image_id == "img_2"


@pytest.mark.parametrize("touch", [lambda path: path.chmod(0o600), lambda path: os.link(path, path.with_name("link"))])
def test_a_file_that_was_only_touched_is_uploaded_from_the_start(disk: Path, touch: Callable[[Path], None]) -> None:
    gateway, reporter = Gateway(), Noting()
    begun_before(gateway, disk)

    def touched() -> None:
        disk.with_name("link").unlink(missing_ok=True)
        touch(disk)

    until_seen(disk, touched)

    asyncio.run(bring(gateway, disk, reporter=reporter))

    assert gateway.aborted == ["upl_1"]
    assert gateway.part == disk.read_bytes()
    assert reporter.notes == [ABORTED]


@pytest.mark.parametrize("status", ["QUEUED", "SAVING", "ACTIVE"])
def test_an_image_of_what_the_file_was_stays_once_its_bytes_are_there(disk: Path, status: str) -> None:
    gateway, reporter = Gateway(), Noting()
    begun_before(gateway, disk)
    gateway.status, gateway.open = status, False
    replaced(disk, os.urandom(SIZE))

    _, asked = asyncio.run(bring(gateway, disk, reporter=reporter))

    assert asked == ["ImageAndUpload", "CreateImage", "MissingParts", "PUT", "CompleteUpload"]
    assert reporter.notes == [STAYS]


@pytest.mark.parametrize("image", [data(image=answers.image("img_1", "ERROR", upload=None)), errors("NOT_FOUND")])
def test_an_upload_of_what_the_file_was_that_has_ended_is_left_alone(disk: Path, image: Reply) -> None:
    gateway, reporter = Gateway(), Noting()
    begun_before(gateway, disk)
    gateway.before = once(operation("ImageAndUpload"), lambda: image)
    replaced(disk, os.urandom(SIZE))

    _, asked = asyncio.run(bring(gateway, disk, reporter=reporter))

    assert asked == ["ImageAndUpload", "CreateImage", "MissingParts", "PUT", "CompleteUpload"]
    assert reporter.notes == []


@pytest.mark.parametrize("code", ["CONFLICT", "NOT_FOUND"])
def test_an_upload_that_ends_while_it_is_to_be_aborted_is_left_alone(disk: Path, code: str) -> None:
    gateway, reporter = Gateway(), Noting()
    begun_before(gateway, disk)
    gateway.before = once(operation("AbortUpload"), lambda: user_error("abortUpload", code, ["uploadId"]))
    replaced(disk, os.urandom(SIZE))

    asyncio.run(bring(gateway, disk, reporter=reporter))

    assert gateway.part == disk.read_bytes()
    assert reporter.notes == []


@pytest.mark.parametrize("reply", [Reply(b"", 503), user_error("abortUpload", "FORBIDDEN")])
def test_an_upload_that_can_not_be_aborted_now_is_aborted_by_the_next_run(disk: Path, reply: Reply) -> None:
    gateway, reporter = Gateway(), Noting()
    begun_before(gateway, disk)
    gateway.before = lambda asked: reply if operation("AbortUpload")(asked) else None
    replaced(disk, os.urandom(SIZE))
    with pytest.raises(ClientError):
        asyncio.run(bring(gateway, disk, RetryPolicy(0), reporter))
    assert (list(gateway.made.values()), reporter.notes) == (["img_1"], [])
    gateway.before = lambda _asked: None

    asyncio.run(bring(gateway, disk, reporter=reporter))

    assert (gateway.aborted, reporter.notes) == (["upl_1"], [ABORTED])


def test_a_key_that_was_meant_for_what_the_file_was_is_not_used_for_it(disk: Path) -> None:
    gateway = Gateway()
    before = remember(disk, None)
    replaced(disk, os.urandom(SIZE))

    _, asked = asyncio.run(bring(gateway, disk))

    assert asked == ["CreateImage", "MissingParts", "PUT", "CompleteUpload"]
    assert before.idempotency_key not in gateway.made
