"""A gateway on PostgreSQL, Redis and MinIO, in real processes, as something to measure."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from app.adapters.s3.bucket import Bucket
from app.s3_address import S3Address
from tests.bench.serving import ANSWER_SECONDS, Gateway, MeasurementFailed
from tests.e2e.cluster import BUCKET, Cluster, running_cluster

_LIMITS = {"IMAGES_CUSTOM_IMAGES_LIMIT": "100000", "IMAGES_IMAGE_STORAGE_LIMIT_GIB": "100000"}


@dataclass(frozen=True, slots=True)
class ScaledOut:
    """Its API processes as gateways to ask, its workers, its MinIO, and the bucket there."""

    gateways: list[Gateway]
    workers: list[psutil.Process]
    minio: psutil.Process
    address: S3Address
    bucket: Bucket


@contextmanager
def scaled_out(
    folder: Path, *, apis: int = 1, workers: int = 1, settings: Mapping[str, str] | None = None
) -> Iterator[ScaledOut]:
    """Starts `apis` API processes and `workers` workers with everything they need, in a new folder.

    Raises MeasurementFailed with the end of their logs.
    """
    folder.mkdir()
    with ExitStack() as stack:
        options = {"apis": apis, "workers": workers, "env": {**_LIMITS, **(settings or {})}}
        cluster = stack.enter_context(running_cluster(folder, **options))
        address = S3Address.parse(cluster.minio.store_url(BUCKET))
        bucket = stack.enter_context(closing(Bucket(address)))
        token = cluster.token()
        started = ScaledOut(
            [stack.enter_context(_gateway(cluster, at, token, bucket)) for at in range(apis)],
            [psutil.Process(worker.pid) for worker in cluster.workers],
            psutil.Process(cluster.minio.pid),
            address,
            bucket,
        )
        try:
            yield started
        except MeasurementFailed as failure:
            raise MeasurementFailed(f"{failure}\n{cluster.logs()}") from failure


@contextmanager
def _gateway(cluster: Cluster, at: int, token: str, bucket: Bucket) -> Iterator[Gateway]:
    api = cluster.apis[at]
    with closing(cluster.client(at, token)) as client:
        project_id = client.project_id
    headers = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=api.url, headers=headers, timeout=ANSWER_SECONDS) as client:
        process = psutil.Process(api.pid)
        yield Gateway(api.url, token, project_id, process, client, lambda: sum(1 for _ in bucket.keys()))
