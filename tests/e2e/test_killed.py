"""kill -9 at any moment costs time, and nothing else."""

import os
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from tests.e2e import images
from tests.e2e.client import Client, Part, becomes, eventually, stored
from tests.e2e.images import DENSE, HOLEY, Variant
from tests.e2e.killer import IMPATIENT, Killer
from tests.e2e.processes import child_named

pytestmark = pytest.mark.needs_program("qemu-img")

SEED = 20260

# One of each way: new tables around the data, a new header, a copy.
REFERENCE = Variant("reference", "VMDK", DENSE)
KEEP = Variant("keep", "QCOW2", HOLEY, flags=("-c",))
COPY = Variant("copy", "VHD", HOLEY)


@pytest.fixture
def killer(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Killer]:
    """With different settings than the impatient ones if a test passes some."""
    killer = Killer(tmp_path / "data", IMPATIENT | getattr(request, "param", {}))
    try:
        yield killer
        killer.gateway.stop()
    finally:
        killer.client.close()
        killer.kill()


def test_an_upload_goes_on_where_it_was_when_the_gateway_is_killed(killer: Killer, disks: Path, tmp_path: Path) -> None:
    numbers = random.Random(SEED)
    source = REFERENCE.build(disks)
    image_id, upload_id = killer.client.create(source)
    arrived = 0

    for _ in range(2):
        parts = killer.client.missing(image_id)
        whole = numbers.randrange(1, 3)
        killer.client.put_all(source, parts[:whole])
        _put_until_killed(killer, source, parts[whole], numbers.randrange(parts[whole].size))
        killer.start_again()

        image = killer.client.image(image_id)
        arrived += whole
        assert image["status"] == "QUEUED"
        assert image["upload"]["state"] == "OPEN"
        assert image["upload"]["partCount"] - len(killer.client.missing(image_id)) == arrived
    killer.client.resume(source, image_id, upload_id)

    _check_all_is_well(killer, {image_id: (source, "vmdk")}, tmp_path)


def test_a_kill_while_an_upload_is_being_completed_leaves_it_open_or_complete(
    killer: Killer, disks: Path, tmp_path: Path
) -> None:
    numbers = random.Random(SEED)
    source = REFERENCE.build(disks)
    made: dict[str, tuple[Path, str]] = {}

    for _ in range(2):
        image_id, upload_id = killer.client.create(source)
        made[image_id] = source, "vmdk"
        killer.client.put_all(source, killer.client.missing(image_id))
        completing = threading.Thread(target=_ask_in_vain, args=(killer.client, upload_id))
        completing.start()
        time.sleep(numbers.uniform(0, 0.04))  # any moment will do
        killer.kill()
        completing.join()
        killer.start_again()
        # A client that got no response retries as often as needed.
        killer.client.mutate("completeUpload", uploadId=upload_id)
        killer.client.mutate("completeUpload", uploadId=upload_id)

    _check_all_is_well(killer, made, tmp_path)


def test_conversions_end_well_however_often_the_gateway_is_killed(killer: Killer, disks: Path, tmp_path: Path) -> None:
    numbers = random.Random(SEED)
    sources = {variant.build(disks): variant.driver for variant in (REFERENCE, KEEP, COPY)}
    slow = images.slow_to_copy(disks)
    made = {killer.client.upload(slow): (slow, "vmdk")}
    store = killer.store

    moments: list[Callable[[], object]] = [
        lambda: any(path.name == "out" for path in store.glob("work/*/*")),
        lambda: any(store.glob("objects/blobs/*.json")),
        lambda: any(store.glob("objects/blobs/*.qcow2")),
        _after(numbers.uniform(0, 1.5)),
    ]
    for moment in moments:
        for source, driver in sources.items():
            made[killer.client.upload(source)] = source, driver
        eventually(moment)
        killer.kill_and_start_again()

    _check_all_is_well(killer, made, tmp_path)


# A lease that outlasts the test: no worker takes over the job.
@pytest.mark.parametrize("killer", [{"IMAGES_LEASE_SECONDS": "600"}], indirect=True)
def test_what_a_killed_conversion_left_is_swept_up_when_nobody_wants_it_any_more(killer: Killer, disks: Path) -> None:
    image_id = killer.client.upload(images.slow_to_copy(disks))
    eventually(lambda: any(killer.store.glob("work/*/out/result")))
    killer.kill_and_start_again()
    assert os.listdir(killer.store / "work")

    killer.client.mutate("deleteImage", imageId=image_id)

    becomes(lambda: os.listdir(killer.store / "work"), [])
    becomes(lambda: stored(killer.gateway.data), set())


def test_a_killed_qemu_img_costs_an_attempt_and_not_the_image(killer: Killer, disks: Path, tmp_path: Path) -> None:
    slow = images.slow_to_copy(disks)
    image_id = killer.client.upload(slow)

    child = eventually(lambda: child_named(killer.gateway.process.pid, "qemu-img", "convert"))
    child.kill()

    killer.client.check_holds(image_id, slow, "vmdk", tmp_path)
    assert _attempts(killer.gateway.data, image_id) == 2
    assert killer.client.statuses(image_id) == ["QUEUED", "SAVING", "ACTIVE"]


def _put_until_killed(killer: Killer, source: Path, part: Part, after: int) -> None:
    """Begin to send a part, and kill the gateway when `after` bytes of it have gone out."""

    def body() -> Iterator[bytes]:
        with source.open("rb") as file:
            file.seek(part.offset)
            yield file.read(after)
            killer.kill()
            yield file.read(part.size - after)

    headers = {**part.headers, "content-length": str(part.size)}
    with pytest.raises(httpx.TransportError):
        httpx.request(part.method, part.url, headers=headers, content=body(), timeout=30)


def _ask_in_vain(client: Client, upload_id: str) -> None:
    with suppress(httpx.TransportError):
        client.mutate("completeUpload", uploadId=upload_id)


def _after(seconds: float) -> Callable[[], object]:
    """True from `seconds` after it was asked first."""
    since: list[float] = []

    def passed() -> bool:
        since.append(time.monotonic())
        return since[-1] - since[0] >= seconds

    return passed


def _check_all_is_well(killer: Killer, made: dict[str, tuple[Path, str]], folder: Path) -> None:
    """Every image becomes ACTIVE and contains its disk, and nothing else is stored."""
    for image_id, (source, driver) in made.items():
        _active_at_last(killer.client, image_id)
        killer.client.check_holds(image_id, source, driver, folder)
    _check_feed(killer.client, made)
    blobs = _blobs(killer.gateway.data)
    assert len(blobs) == len(made)
    becomes(lambda: stored(killer.gateway.data), blobs)
    becomes(lambda: os.listdir(killer.store / "work"), [])


def _active_at_last(client: Client, image_id: str) -> None:
    """An image ends ACTIVE, or in an ERROR from which a retry of its owner helps."""
    while (image := client.settled(image_id))["status"] == "ERROR":
        assert image["failure"]["retriable"], image["failure"]
        client.mutate("retryImage", imageId=image_id)


def _check_feed(client: Client, image_ids: Iterable[str]) -> None:
    """The feed, read from its start, matches the table: each step follows from the last, one is ACTIVE."""
    events = client.events()
    assert len({event["cursor"] for event in events}) == len(events)
    created = Counter(event["imageId"] for event in events if event["__typename"] == "ImageCreated")
    assert created == Counter(list(image_ids))
    for image_id in created:
        statuses = client.statuses(image_id)
        assert statuses[-1] == client.image(image_id)["status"]
        assert Counter(statuses)["ACTIVE"] == 1


def _blobs(data: Path) -> set[str]:
    with closing(sqlite3.connect(data / "images.db")) as database:
        return {f"objects/{key}" for (key,) in database.execute("SELECT key FROM blob")}


def _attempts(data: Path, image_id: str) -> int:
    with closing(sqlite3.connect(data / "images.db")) as database:
        query = "SELECT attempts FROM job WHERE image_id = ? AND kind = 'CONVERT'"
        ((attempts,),) = database.execute(query, (image_id,))
        return int(attempts)
