"""Every format that is taken in, and some that are refused, through a real gateway: upload, watch, download."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e import images
from tests.e2e.client import Client, Refused, becomes, eventually, stored
from tests.e2e.gateway import Gateway
from tests.e2e.images import DENSE, HOLEY, VARIANTS, MiB, Variant

pytestmark = pytest.mark.needs_program("qemu-img")

GIB = 1 << 30


@pytest.fixture
def client(running_gateway: Gateway) -> Iterator[Client]:
    """A client; what a test made is deleted when it has passed."""
    with Client.of(running_gateway) as client:
        yield client
        for image_id in client.image_ids():
            client.mutate("deleteImage", imageId=image_id)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_an_image_of_every_format_becomes_the_same_disk_in_qcow2(
    client: Client, disks: Path, tmp_path: Path, variant: Variant
) -> None:
    source = variant.build(disks)
    result = tmp_path / "result.qcow2"

    image_id = client.upload(source)
    image = client.active(image_id)

    assert (image["source"]["declaredFormat"], image["source"]["detectedFormat"]) == (variant.format, variant.format)
    assert image["failure"] is image["upload"] is image["progress"] is None
    assert image["warnings"] == []
    assert client.statuses(image_id) == ["QUEUED", "SAVING", "ACTIVE"]
    sha256 = client.hashed(image_id)["sha256"]
    assert client.download(image, result) == sha256
    images.check_same_disk(source, variant.driver, result)
    report = images.check_sound(result)
    assert image["virtualSize"] == images.virtual_size(source, variant.driver)
    assert image["minBootDiskGib"] == -(-image["virtualSize"] // GIB)
    assert report["allocated-clusters"] > 0
    assert sum(length for _, length in variant.disk.runs) <= image["storedSize"] * 1.01
    assert image["storedSize"] <= result.stat().st_size
    source.unlink()


def test_a_file_is_taken_in_one_part_too(client: Client, tmp_path: Path) -> None:
    source = HOLEY.write(tmp_path).rename(tmp_path / "disk.raw")
    result = tmp_path / "result.qcow2"
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()

    image_id, upload_id = client.create(source, multipart=False, sha256=sha256)
    (part,) = client.missing(image_id)
    client.put_all(source, [part])
    client.mutate("completeUpload", uploadId=upload_id)

    client.download(client.active(image_id), result)
    images.check_same_disk(source, "raw", result)


@dataclass(frozen=True)
class Hostile:
    """A file that must not become an image: how to make it of a good raw disk, and how it is refused."""

    name: str
    ending: str
    build: Callable[[Path, Path], Path]
    code: str
    sha256: str | None = None


def _truncated_qcow2(path: Path, disk: Path) -> Path:
    whole = images.convert(disk, path.with_suffix(".whole"), "qcow2")
    return images.cut(path, whole, 12 * MiB)


def _truncated_stream(path: Path, disk: Path) -> Path:
    whole = images.convert(disk, path.with_suffix(".whole"), "vmdk", options=("subformat=streamOptimized",))
    return images.cut(path, whole, 12 * MiB)


HOSTILE = (
    Hostile("backing-file", "qcow2", lambda path, _: images.with_backing_file(path), "UNSAFE_IMAGE"),
    Hostile("backing-json", "qcow2", lambda path, _: images.with_backing_file(path, "json:{}"), "UNSAFE_IMAGE"),
    Hostile("gzip-as-qcow2", "qcow2", images.gzipped, "FORMAT_MISMATCH"),
    Hostile("gzip-as-raw", "raw", images.gzipped, "FORMAT_MISMATCH"),
    Hostile("raw-as-vmdk", "vmdk", lambda path, disk: images.cut(path, disk, 2 * MiB), "FORMAT_MISMATCH"),
    Hostile("descriptor", "vmdk", images.vmdk_descriptor, "FORMAT_MISMATCH"),
    Hostile("truncated-qcow2", "qcow2", _truncated_qcow2, "CORRUPT_IMAGE"),
    Hostile("truncated-stream", "vmdk", _truncated_stream, "CORRUPT_IMAGE"),
    Hostile(
        "wrong-checksum", "raw", lambda path, disk: images.cut(path, disk, 20 * MiB), "CHECKSUM_MISMATCH", "0" * 64
    ),
    Hostile("17-tebibytes", "qcow2", lambda path, _: images.empty_qcow2(path, "17T"), "TOO_LARGE"),
    Hostile("differencing", "vhd", images.differencing_vhd, "UNSAFE_IMAGE"),
)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_file_ends_in_error_with_a_hint_and_leaves_nothing_behind(
    running_gateway: Gateway, client: Client, disks: Path, tmp_path: Path, hostile: Hostile
) -> None:
    path = hostile.build(tmp_path / f"hostile.{hostile.ending}", DENSE.write(disks))
    becomes(lambda: stored(running_gateway.data), set())

    image_id, upload_id = client.create(path, **({"sha256": hostile.sha256} if hostile.sha256 else {}))
    for part in client.missing(image_id):
        # What is refused while it arrives takes no more bytes.
        assert client.put(path, part).status_code in (200, 409)
    if client.image(image_id)["status"] == "QUEUED":
        _complete(client, upload_id)
    failure = client.settled(image_id)["failure"]

    assert failure["code"] == hostile.code
    assert failure["message"]
    assert failure["hint"]
    assert failure["retriable"] is False
    assert str(running_gateway.data) not in failure["message"] + failure["hint"]
    assert client.statuses(image_id)[-1] == "ERROR"
    eventually(lambda: all(file.startswith("objects/uploads/") for file in stored(running_gateway.data)))
    client.mutate("deleteImage", imageId=image_id)
    becomes(lambda: stored(running_gateway.data), set())


def test_a_deleted_image_leaves_nothing_in_the_data_folder(
    running_gateway: Gateway, client: Client, disks: Path
) -> None:
    source = Variant("to-delete", "VMDK").build(disks)
    image_id = client.upload(source)
    client.hashed(image_id)
    assert stored(running_gateway.data)

    client.mutate("deleteImage", imageId=image_id)

    becomes(lambda: stored(running_gateway.data), set())
    kept = {name for name in os.listdir(running_gateway.data) if not name.startswith("images.db")}
    assert kept == {"secret", "connection.json", "store", "up.lock", "reserve"}


def _complete(client: Client, upload_id: str) -> None:
    """Complete an upload, unless it has been refused just now."""
    with suppress(Refused):
        client.mutate("completeUpload", uploadId=upload_id)
