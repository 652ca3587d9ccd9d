"""How long a snapshot takes to become an image, which must not depend on its size: no bytes are copied."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from app.boot_readiness.report import BootReadiness, Note
from app.database.sessions import Database
from app.lifecycle import ImageStatus, ImageType
from app.models import Blob, Image
from app.settings import Settings
from tests.bench.figures import Figure, Report, middle, seconds
from tests.bench.scale import Scale
from tests.bench.serving import Gateway, MeasurementFailed, running_gateway

# How much larger the second snapshot is.
_TIMES = 50
# Promotions of each snapshot in a round, since one takes milliseconds.
_PROMOTIONS = 20
_GOAL = 1.2
_PROMOTE = """
mutation Promote($input: CreateImageInput!) {
  createImage(input: $input) { userErrors { message hint } image { status } }
}"""


def measure(scale: Scale) -> Report:
    """Promote a small snapshot and a large one in turns."""
    sizes = [scale.bytes_of(), scale.bytes_of(_TIMES)]
    with running_gateway(scale.folder) as gateway:
        data = scale.folder / "data"
        snapshots = {size: asyncio.run(_put_snapshot(data, gateway.project_id, size)) for size in sizes}
        before = _stored(data)
        for snapshot in snapshots.values():
            _promote(gateway, snapshot)
        taken = [_round(gateway, snapshots) for _ in range(scale.rounds * _PROMOTIONS)]
        written = _stored(data) - before
    small, large = (middle([each[size] for each in taken]) for size in sizes)
    ratio = large / small
    return Report(
        title="promotion",
        how=f"`createImage` of a snapshot over HTTP, until the answer with an ACTIVE image; medians of {len(taken)} "
        "each, in turns. The store is a folder; the blobs are files without data, as long as the snapshots.",
        figures=[
            Figure(_named(scale.gib), seconds(small)),
            Figure(_named(scale.gib * _TIMES), seconds(large), seconds(small), ratio, f"≤ {_GOAL}", ratio <= _GOAL),
            Figure("bytes written to the store", f"{written} B", goal="0 B", ok=written == 0),
        ],
    )


def _named(gib: float) -> str:
    return f"snapshot of {gib:g} GiB"


def _round(gateway: Gateway, snapshots: Mapping[int, str]) -> dict[int, float]:
    """Seconds that the promotion of each snapshot took, by its size."""
    return {size: _promote(gateway, snapshot) for size, snapshot in snapshots.items()}


def _promote(gateway: Gateway, snapshot_id: str) -> float:
    wish = {"projectId": gateway.project_id, "name": "promoted", "source": {"snapshot": {"snapshotId": snapshot_id}}}
    began = time.perf_counter()
    image = gateway.ask(_PROMOTE, input=wish)["createImage"]["image"]
    taken = time.perf_counter() - began
    if image["status"] != "ACTIVE":
        raise MeasurementFailed(f"the image is {image['status']}")
    return taken


async def _put_snapshot(data: Path, project_id: str, size: int) -> str:
    """Write a snapshot of `size` bytes straight into the tables, and its blob into the store; the snapshot's id."""
    name = f"{size} bytes"
    blob = Blob(
        key=f"blobs/{size}.qcow2",
        virtual_size=size,
        stored_size=size,
        file_size=size,
        # It is known, so no job reads the file.
        sha256="0" * 64,
        readiness=BootReadiness.unknown(Note.CHECK_FAILED).to_json(),
    )
    image = Image(
        project_id=project_id,
        name=name,
        name_key=name,
        created_by="bench",
        type=ImageType.SNAPSHOT,
        status=ImageStatus.ACTIVE,
        blob_id=blob.id,
        virtual_size=size,
        size_key=size,
        stored_size=size,
    )
    path = data / "store/objects" / blob.key
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    database = Database(Settings(data=data).database_address)
    try:
        async with database.transaction() as tx:
            tx.session.add(blob)
            await tx.session.flush()
            tx.session.add(image)
            return image.id
    finally:
        await database.close()


def _stored(data: Path) -> int:
    """The lengths of all files in the store, in bytes."""
    return sum(path.stat().st_size for path in (data / "store").rglob("*") if path.is_file())
