"""Two API processes and two workers on PostgreSQL, Redis and MinIO, as real processes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.e2e import images
from tests.e2e.client import Client, Refused, becomes
from tests.e2e.cluster import Cluster, running_cluster
from tests.e2e.images import LARGE, VARIANTS, MiB, Variant

pytestmark = pytest.mark.needs_program("qemu-img", "qemu-nbd", "redis-server")

QUICK = {
    "IMAGES_LEASE_SECONDS": "3",
    "IMAGES_MINIMUM_PART_SIZE": str(5 * MiB),
    "IMAGES_PROGRESS_SECONDS": "0.1",
    "IMAGES_CUSTOM_IMAGES_LIMIT": "1000",
    # Sweeps are too rare to help: what these tests see was announced by Redis.
    "IMAGES_POLL_SECONDS": "20",
}
STREAM = Variant("stream", "VMDK", LARGE, ("subformat=streamOptimized",))

_FEED = """
subscription ($project: ID!, $after: EventCursor) {
  imageEvents(projectId: $project, after: $after) {
    __typename
    ... on ImageCreated { cursor imageId }
    ... on ImageUpdated { cursor imageId }
    ... on ImageStatusChanged { cursor imageId to }
    ... on ImageProgressed { cursor imageId progress { phase } }
  }
}
"""


_CREATE = "mutation ($input: CreateImageInput!) { createImage(input: $input) { image { id } } }"
_REMOVE = "mutation ($input: RemoveProjectMemberInput!) { removeProjectMember(input: $input) { cursor } }"


def _wish(project_id: str) -> dict[str, object]:
    upload = {"fileName": "disk.raw", "size": MiB}
    return {"projectId": project_id, "name": "disk", "source": {"upload": upload}}


@pytest.fixture(scope="module")
def cluster(module_folder: Path) -> Iterator[Cluster]:
    with running_cluster(module_folder / "cluster", env=QUICK) as cluster:
        yield cluster


@pytest.fixture
def clients(cluster: Cluster) -> Iterator[tuple[Client, Client]]:
    """Two clients with one token, each on an API process of its own."""
    token = cluster.token()
    with cluster.client(0, token) as one, cluster.client(1, token) as other:
        yield one, other


def test_what_goes_in_at_one_process_is_watched_at_the_other(
    clients: tuple[Client, Client], disks: Path, tmp_path: Path
) -> None:
    one, other = clients
    source = STREAM.build(disks)
    before = other.ask("query { eventCursor }")["eventCursor"]
    with other.stream(_FEED, project=other.project_id, after=before) as answers:
        image_id = one.upload(source)
        observed = []
        for answer in answers:
            observed.append(answer["imageEvents"])
            if observed[-1].get("to") == "ACTIVE":
                break
    kinds = [event["__typename"] for event in observed if event["__typename"] != "ImageProgressed"]
    assert kinds == ["ImageCreated", "ImageUpdated", "ImageStatusChanged", "ImageStatusChanged"]
    phases = [event["progress"]["phase"] for event in observed if event["__typename"] == "ImageProgressed"]
    assert "CONVERTING" in phases
    assert {event["imageId"] for event in observed} == {image_id}
    other.check_holds(image_id, source, STREAM.driver, tmp_path)


def test_who_is_removed_at_one_process_watches_no_longer_at_the_other(cluster: Cluster) -> None:
    token = cluster.token("leaver", "beta", "READER")
    with cluster.client(0, cluster.token("boss", "beta"), "beta") as boss, cluster.client(1, token, "beta") as leaver:
        before = boss.ask("query { eventCursor }")["eventCursor"]
        image_id = boss.ask(_CREATE, input=_wish(boss.project_id))["createImage"]["image"]["id"]
        with leaver.stream(_FEED, project=leaver.project_id, after=before) as answers:
            assert next(answers)["imageEvents"]["imageId"] == image_id
            boss.ask(_REMOVE, input={"projectId": boss.project_id, "subject": "leaver"})
            with pytest.raises(AssertionError, match="NOT_FOUND"):
                next(answers)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_format_becomes_the_same_disk(
    clients: tuple[Client, Client], variant: Variant, disks: Path, tmp_path: Path
) -> None:
    one, other = clients
    source = variant.build(disks)
    image_id = one.upload(source)
    other.check_holds(image_id, source, variant.driver, tmp_path)
    # All of these together would take 4 GB.
    one.mutate("deleteImage", imageId=image_id)
    source.unlink()


def test_bytes_go_straight_to_the_store_and_come_straight_from_it(
    cluster: Cluster, clients: tuple[Client, Client], disks: Path
) -> None:
    one, _ = clients
    source = images.DENSE.write(disks)
    image_id, upload_id = one.create(source, format="RAW")
    parts = one.missing(image_id)
    assert {urlsplit(part.url).port for part in parts} == {cluster.minio.port}
    one.put_all(source, parts)
    one.mutate("completeUpload", uploadId=upload_id)
    download = one.active(image_id)["download"]
    assert urlsplit(download["url"]).port == cluster.minio.port


def test_the_store_refuses_a_part_of_another_length_and_no_image_contains_it(
    clients: tuple[Client, Client], disks: Path
) -> None:
    one, _ = clients
    source = images.DENSE.write(disks)
    image_id, upload_id = one.create(source, format="RAW")
    parts = one.missing(image_id)
    for wrong in (parts[0].size - 1, parts[0].size + 1):
        answer = httpx.request(parts[0].method, parts[0].url, content=bytes(wrong), timeout=30)
        assert answer.status_code == 403, answer.text
    one.put_all(source, parts[1:])
    assert one.image(image_id)["upload"]["receivedBytes"] == source.stat().st_size - parts[0].size
    with pytest.raises(Refused) as refused:
        one.mutate("completeUpload", uploadId=upload_id)
    assert refused.value.code == "NOT_READY"
    assert [part.number for part in one.missing(image_id)] == [1]


def test_an_aborted_upload_leaves_no_part_behind(cluster: Cluster, clients: tuple[Client, Client], disks: Path) -> None:
    one, _ = clients
    source = images.DENSE.write(disks)
    image_id, upload_id = one.create(source, format="RAW")
    one.put_all(source, one.missing(image_id)[:2])
    key, reference = _upload_of(cluster, image_id)
    bucket = cluster.bucket()
    assert bucket.multiparts(key) == [reference]
    one.mutate("abortUpload", uploadId=upload_id)
    becomes(lambda: bucket.multiparts(key), [])
    assert one.image(image_id)["failure"]["code"] == "UPLOAD_ABORTED"
    bucket.close()


def test_an_upload_that_the_store_has_dropped_has_expired(
    cluster: Cluster, clients: tuple[Client, Client], disks: Path
) -> None:
    one, _ = clients
    source = images.DENSE.write(disks)
    image_id, upload_id = one.create(source, format="RAW")
    bucket = cluster.bucket()
    # As MinIO does by itself with what is a day old.
    bucket.abort(*_upload_of(cluster, image_id))
    bucket.close()
    with pytest.raises(Refused) as refused:
        one.mutate("completeUpload", uploadId=upload_id)
    assert refused.value.code == "CONFLICT"
    image = one.image(image_id)
    assert (image["status"], image["failure"]["code"]) == ("ERROR", "UPLOAD_EXPIRED")


def test_another_worker_takes_up_what_a_killed_one_was_doing(
    cluster: Cluster, clients: tuple[Client, Client], disks: Path, tmp_path: Path
) -> None:
    one, _ = clients
    source = images.slow_to_copy(disks, 128 * MiB)
    busy, idle = cluster.workers
    os.kill(idle.pid, signal.SIGSTOP)  # so that it is known which of them takes the job
    try:
        image_id = one.upload(source)
        one.when(image_id, lambda image: (image["progress"] or {}).get("phase") == "CONVERTING")
        busy.kill()
    finally:
        os.kill(idle.pid, signal.SIGCONT)
    try:
        one.check_holds(image_id, source, "vmdk", tmp_path)
    finally:
        busy.start()
    assert one.statuses(image_id) == ["QUEUED", "SAVING", "ACTIVE"]


def test_a_conversion_writes_nothing_to_the_disk_of_its_worker(
    cluster: Cluster, clients: tuple[Client, Client], disks: Path
) -> None:
    one, _ = clients
    before = {worker.pid: _written(worker.pid) for worker in cluster.workers}
    for variant in (STREAM, Variant("copied", "VHD", LARGE), Variant("referenced", "VMDK", LARGE)):
        one.hashed(one.upload(variant.build(disks)))
    after = {worker.pid: _written(worker.pid) for worker in cluster.workers}
    # Log lines and the like; the images hold 90 MiB each.
    assert all(after[pid] - before[pid] < 2 * MiB for pid in before), (before, after)


@pytest.fixture(scope="module")
def alone(module_folder: Path) -> Iterator[Cluster]:
    """One process of each kind, which finds by itself what nothing announces, and tries each job once."""
    settings = QUICK | {"IMAGES_JOB_ATTEMPTS": "1", "IMAGES_POLL_SECONDS": "0.5"}
    with running_cluster(module_folder / "alone", apis=1, workers=1, env=settings) as cluster:
        yield cluster


def test_nothing_is_lost_while_redis_is_away(alone: Cluster, disks: Path, tmp_path: Path) -> None:
    source = images.DENSE.write(disks)
    with alone.client(0) as client:
        alone.redis.kill()
        try:
            image_id = client.upload(source, format="RAW")
            client.active(image_id)
        finally:
            alone.redis.start()
        client.check_holds(client.upload(source, format="RAW"), source, "raw", tmp_path)


def test_an_image_whose_store_stays_away_ends_in_an_error_that_a_retry_mends(
    alone: Cluster, disks: Path, tmp_path: Path
) -> None:
    source = images.DENSE.write(disks)
    (worker,) = alone.workers
    with alone.client(0) as client:
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            image_id = client.upload(source, format="RAW")
            alone.minio.kill()
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        try:
            image = client.settled(image_id)
            assert (image["status"], image["failure"]["code"]) == ("ERROR", "STORAGE_UNAVAILABLE")
            assert image["failure"]["retriable"]
            with pytest.raises(AssertionError, match="STORAGE_UNAVAILABLE"):
                client.create(source, format="RAW")
        finally:
            alone.minio.start()
        client.mutate("retryImage", imageId=image_id)
        client.check_holds(image_id, source, "raw", tmp_path)


def _written(pid: int) -> int:
    """Total bytes that a process has had written to disks."""
    written: int = psutil.Process(pid).io_counters().write_bytes
    return written


def _upload_of(cluster: Cluster, image_id: str) -> tuple[str, str]:
    query = "SELECT key, reference FROM upload JOIN source ON source.id = source_id WHERE upload.image_id = $1"
    (row,) = cluster.rows(query, image_id)
    return row["key"], row["reference"]
