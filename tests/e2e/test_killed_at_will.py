"""kill -9 of anything, in any order, while thirty uploads are on their way: time is lost, and nothing else."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from tests.e2e.client import Client, Refused, becomes
from tests.e2e.cluster import Cluster, ImagesProcess, running_cluster, when_all_serve
from tests.e2e.images import Disk, KiB, MiB, Variant

pytestmark = [
    pytest.mark.needs_program("qemu-img", "qemu-nbd", "redis-server"),
    pytest.mark.timeout(900),
]

T = TypeVar("T")

SEED = 20261
UPLOADS = 30
# With this seed each API process and worker, and PostgreSQL, Redis and MinIO, are killed two to five times.
KILLS = 12
_PATIENCE_SECONDS = 400.0
_WATCH_SECONDS = 3.0
# A part of one byte on MinIO's disk, with its checksum.
_TRIED_BYTES = 33

# Short enough that a test sees what otherwise takes its time: leases run out, sweeps come round.
IMPATIENT = {
    "IMAGES_LEASE_SECONDS": "3",
    "IMAGES_POLL_SECONDS": "0.5",
    "IMAGES_ORPHAN_SECONDS": "5",
    "IMAGES_MINIMUM_PART_SIZE": str(5 * MiB),
    "IMAGES_JOB_ATTEMPTS": "4",
    "IMAGES_CUSTOM_IMAGES_LIMIT": "1000",
}
# Above S3's least part, so that ranges are copied within the store; and small, since there are many.
SMALL = Disk("small", 32 * MiB, ((0, 7 * MiB), (9 * MiB, 64 * KiB), (20 * MiB, MiB + 4 * KiB)))
FULL = Disk("full", 8 * MiB, ((0, 8 * MiB),))
FORMATS = (
    Variant("raw", "RAW", FULL),
    Variant("raw-holey", "RAW", SMALL),
    Variant("qcow2", "QCOW2", SMALL),
    Variant("qcow2-compressed", "QCOW2", SMALL, flags=("-c",)),
    Variant("vmdk", "VMDK", SMALL, ("subformat=monolithicSparse",)),
    Variant("vmdk-stream", "VMDK", SMALL, ("subformat=streamOptimized",)),
    Variant("vhd", "VHD", SMALL, ("subformat=dynamic",)),
    Variant("vhd-fixed", "VHD", FULL, ("subformat=fixed",)),
    Variant("vhdx", "VHDX", SMALL, ("subformat=dynamic",)),
    Variant("vhdx-fixed", "VHDX", FULL, ("subformat=fixed",)),
)

_EVENTS = """
subscription ($project: ID!, $after: EventCursor) {
  imageEvents(projectId: $project, after: $after, progress: false) {
    __typename
    ... on ImageCreated { cursor imageId }
    ... on ImageUpdated { cursor imageId }
    ... on ImageDeleted { cursor imageId }
    ... on ImageStatusChanged { cursor imageId to }
    ... on ResyncRequired { cursor }
  }
}
"""
_CREATE = """
mutation ($input: CreateImageInput!) {
  createImage(input: $input) { userErrors { code message } image { id upload { id } } }
}
"""


def test_thirty_uploads_survive_whatever_is_killed(tmp_path: Path) -> None:
    numbers = random.Random(SEED)
    sources = [(variant.build(tmp_path), variant) for variant in FORMATS]
    with running_cluster(tmp_path / "cluster", env=IMPATIENT) as cluster, cluster.supervised():
        token = cluster.token()
        with cluster.client(0, token) as client:
            project_id, cursor = client.project_id, client.ask("query { eventCursor }")["eventCursor"]
        bringing = Bringing(cluster, token, project_id)
        watcher = Watcher(cluster, token, project_id, cursor)
        with watcher, ThreadPoolExecutor(6) as pool:
            brought = [
                pool.submit(bringing.bring, number, *sources[number % len(sources)]) for number in range(UPLOADS)
            ]
            Chaos(cluster, numbers).rage(KILLS)
            when_all_serve(cluster)
            made = {
                upload.result(_PATIENCE_SECONDS): sources[number % len(sources)]
                for number, upload in enumerate(brought)
            }
            assert len(made) == UPLOADS, "a creation that was asked for twice made two images"
            with cluster.client(1, token) as client:
                _end_active(client, made)
                _hold_their_disks(client, made, tmp_path)
                becomes(lambda: watcher.seen, _told(client))
        _nothing_is_left_over(cluster, made)


# ---------------------------------------------------------------- what goes on at once


@dataclass
class Chaos:
    """Kills one to three of all processes and starts them again, over and over, in an order that a seed decides."""

    cluster: Cluster
    numbers: random.Random

    def rage(self, times: int) -> None:
        for _ in range(times):
            time.sleep(self.numbers.uniform(0.2, 1.5))  # any moment will do
            everything: list[Any] = [*self.cluster.processes, *self.cluster.servers.values()]
            victims = self.numbers.sample(everything, self.numbers.randint(1, 3))
            with self.cluster.changing:
                for victim in victims:
                    victim.kill()
                self.numbers.shuffle(victims)
                for victim in victims:
                    # The gateway's own may find what they need still away: then they end, and are started again.
                    victim.launch() if isinstance(victim, ImagesProcess) else victim.start()


@dataclass
class Bringing:
    """Uploads files as a persistent client does: it retries whatever fails."""

    cluster: Cluster
    token: str
    project_id: str

    def bring(self, number: int, path: Path, variant: Variant) -> str:
        numbers = random.Random(SEED + number)

        def somewhere() -> Client:
            return Client(numbers.choice(self.cluster.apis).url, self.token, self.project_id)

        image_id, upload_id = _stubbornly(lambda: self._create(somewhere(), number, path, variant))
        _stubbornly(lambda: self._send(somewhere(), path, image_id, upload_id))
        return image_id

    def _create(self, client: Client, number: int, path: Path, variant: Variant) -> tuple[str, str]:
        source = {"upload": {"fileName": path.name, "size": path.stat().st_size, "format": variant.format}}
        given = {
            "projectId": self.project_id,
            "name": f"{number}",
            "source": source,
            "idempotencyKey": f"bring-{number}",
        }
        with client:
            payload = client.ask(_CREATE, input=given)["createImage"]
        assert not payload["userErrors"], payload["userErrors"]
        return payload["image"]["id"], payload["image"]["upload"]["id"]

    def _send(self, client: Client, path: Path, image_id: str, upload_id: str) -> None:
        with client:
            if client.image(image_id)["upload"] is None:
                return
            client.resume(path, image_id, upload_id)


@dataclass
class Watcher:
    """Follows the feed by cursor, on one API process after the other, within its block."""

    cluster: Cluster
    token: str
    project_id: str
    cursor: str
    seen: list[tuple[str, str]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watcher":
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            client = Client(self.cluster.apis[turn % len(self.cluster.apis)].url, self.token, self.project_id)
            # Where nothing happens it comes back to the other process, and sees that it is over.
            client.http.timeout = httpx.Timeout(_WATCH_SECONDS)
            try:
                self._follow(client)
            except (httpx.HTTPError, AssertionError, KeyError):
                self._over.wait(0.1)
            finally:
                client.close()

    def _follow(self, client: Client) -> None:
        with client.stream(_EVENTS, project=self.project_id, after=self.cursor) as answers:
            for answer in answers:
                event = answer["imageEvents"]
                self.seen.append((event["cursor"], event["__typename"]))
                self.cursor = event["cursor"]
                if self._over.is_set():
                    return


def _stubbornly(act: Callable[[], T]) -> T:
    """Do something until it is done. Fails, with what stands against it, after some minutes."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return act()
        except (httpx.HTTPError, AssertionError, KeyError, ValueError, Refused):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


# ---------------------------------------------------------------- what has to be true at the end


def _end_active(client: Client, made: Mapping[str, Any]) -> None:
    for image_id in made:
        while (image := client.settled_when_asked(image_id, 120))["status"] == "ERROR":
            assert image["failure"]["retriable"], image["failure"]
            client.mutate("retryImage", imageId=image_id)


def _hold_their_disks(client: Client, made: Mapping[str, tuple[Path, Variant]], folder: Path) -> None:
    for image_id, (source, variant) in made.items():
        client.check_holds(image_id, source, variant.driver, folder)


def _told(client: Client) -> list[tuple[str, str]]:
    return [(event["cursor"], event["__typename"]) for event in client.events()]


def _nothing_is_left_over(cluster: Cluster, made: Mapping[str, Any]) -> None:
    becomes(lambda: cluster.rows("SELECT id, kind, state FROM job WHERE state <> 'DONE'"), [], 120)
    assert cluster.rows("SELECT sum(reserved_size) AS promised FROM image")[0]["promised"] == 0
    assert cluster.rows("SELECT id FROM upload WHERE state = 'OPEN'") == []
    assert cluster.rows("SELECT id FROM source WHERE kept") == []
    blobs = {row["key"] for row in cluster.rows("SELECT key FROM blob")}
    assert len(blobs) == len(made)
    bucket = cluster.bucket()
    try:
        becomes(lambda: {key for key, _ in bucket.keys()}, blobs, 60)
    finally:
        bucket.close()
    becomes(lambda: list(_parts_of_open_uploads(cluster.minio.folder)), [], 60)


def _parts_of_open_uploads(folder: Path) -> Iterator[Path]:
    """What MinIO holds of multipart uploads that were neither completed nor aborted, on its disk.

    An upload whose process died before it returned the upload's address has no part, and no client knows that
    address. MinIO lists no uploads but those of a key that is known, and drops it after a day by itself. The same
    applies to the upload with which a starting process tries part URLs, if it is killed meanwhile: it has one byte.
    """
    for path in folder.rglob(".minio.sys/multipart/**/part.*"):
        if path.is_file() and path.suffix != ".meta" and path.stat().st_size > _TRIED_BYTES:
            yield path
