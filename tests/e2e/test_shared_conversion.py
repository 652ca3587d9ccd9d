"""One large image converted by several workers, and workers that have no room for anything on their disk."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import images
from tests.e2e.client import Client, becomes, eventually
from tests.e2e.cluster import Cluster, ImagesProcess, running_cluster
from tests.e2e.images import HOLEY, LARGE, MiB, Variant

pytestmark = pytest.mark.needs_program("qemu-img", "qemu-nbd", "redis-server")

SETTINGS = {
    "IMAGES_LEASE_SECONDS": "3",
    "IMAGES_POLL_SECONDS": "0.5",
    "IMAGES_MINIMUM_PART_SIZE": str(5 * MiB),
    "IMAGES_SPLIT_BYTES": str(32 * MiB),
    "IMAGES_WORKERS": "1",
}
_TINY = 256 << 10
# One of each way: ranges that the store copies, a new header, a stream by a map, and one through qemu or our decoder.
VARIANTS = (
    Variant("reference", "VMDK", LARGE),
    Variant("keep", "QCOW2", HOLEY, flags=("-c",)),
    Variant("mapped", "VHD", LARGE),
    Variant("raw", "RAW", LARGE),
    Variant("decoded", "VMDK", LARGE, ("subformat=streamOptimized",)),
)


@pytest.fixture(scope="module")
def cluster(module_folder: Path) -> Iterator[Cluster]:
    with running_cluster(module_folder / "cluster", apis=1, env=SETTINGS) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


def test_a_worker_that_dies_costs_its_range_and_not_the_image(
    cluster: Cluster, client: Client, disks: Path, tmp_path: Path
) -> None:
    source = images.slow_to_copy(disks, 256 * MiB)
    image_id = client.upload(source)
    eventually(lambda: _stopped_while_both_are_at_a_range(cluster, image_id))
    done = {job["id"] for job in _with(_ranges(cluster, image_id), "DONE")}
    victim, other = cluster.workers
    victim.kill()
    os.kill(other.pid, signal.SIGCONT)
    try:
        client.check_holds(image_id, source, "vmdk", tmp_path)
    finally:
        victim.start()
    ranges = _ranges(cluster, image_id)
    assert len(ranges) > 4
    assert {job["attempts"] for job in ranges if job["id"] in done} == {1}
    # That of the victim; and the other's, if its lease ran out while it was stopped.
    assert 1 <= sum(job["attempts"] > 1 for job in ranges) <= 2
    (convert,) = cluster.rows("SELECT attempts FROM job WHERE image_id = $1 AND kind = 'CONVERT'", image_id)
    assert convert["attempts"] == 1
    bucket = cluster.bucket()
    becomes(lambda: len(list(bucket.keys())), 1)
    bucket.close()


@pytest.mark.needs_program("bwrap")
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_worker_needs_no_room_on_its_disk(
    cluster: Cluster, client: Client, variant: Variant, disks: Path, tmp_path: Path
) -> None:
    source = variant.build(disks)
    folder = tmp_path / "tiny"
    folder.mkdir()
    cramped = ImagesProcess(tmp_path / "cramped", ["work"], cluster.settings | {"TMPDIR": str(folder)})
    cramped.wrapper = ["bwrap", "--dev-bind", "/", "/", "--size", str(_TINY), "--tmpfs", str(folder), "--"]
    for worker in cluster.workers:
        os.kill(worker.pid, signal.SIGSTOP)
    try:
        with cramped:
            client.check_holds(client.upload(source), source, variant.driver, tmp_path)
    finally:
        for worker in cluster.workers:
            os.kill(worker.pid, signal.SIGCONT)


def _stopped_while_both_are_at_a_range(cluster: Cluster, image_id: str) -> bool:
    """Stop both workers; let them go on when one of them was between two ranges, or none had been done before."""
    for worker in cluster.workers:
        os.kill(worker.pid, signal.SIGSTOP)
    ranges = _ranges(cluster, image_id)
    if _with(ranges, "DONE") and len(_with(ranges, "RUNNING")) == len(cluster.workers):
        return True
    for worker in cluster.workers:
        os.kill(worker.pid, signal.SIGCONT)
    return False


def _ranges(cluster: Cluster, image_id: str) -> list[dict[str, Any]]:
    query = "SELECT id, state, attempts FROM job WHERE image_id = $1 AND kind = 'STREAM_RANGE'"
    return cluster.rows(query, image_id)


def _with(jobs: list[dict[str, Any]], state: str) -> list[dict[str, Any]]:
    return [job for job in jobs if job["state"] == state]
