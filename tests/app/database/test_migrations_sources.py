"""The migration that separates sources from uploads, on a database in which everything is under way."""

import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlmodel import select

from app.adapters.folder.store import FolderStore
from app.catalog import conversions
from app.catalog.fsck import Fsck, Problem
from app.database.migrations import migrate
from app.lifecycle import ImageStatus, JobKind, JobState, SourceKind, UploadState
from app.models import Image, Job, Source, Upload
from app.sizes import KIB, MIB
from tests.app.database.test_migrations import address, rows, scripts, within
from tests.servers.postgresql import PostgreSQL
from tests.support.gateway import LEASE, SECRET, Gateway, claimed, running_gateway, until
from tests.support.object_store_contract import listed
from workers.jobs.converters import owner_of

pytestmark = pytest.mark.anyio

BEFORE = "0006"
AT = datetime(2026, 1, 31, 6, tzinfo=UTC)
LONG_SINCE = datetime(2020, 1, 1, tzinfo=UTC)
SIZE = 64 * KIB
CONTENT = b"\1" * SIZE
SHA256 = "ab" * 32
SHARED = {"reference": "r", "cuts": [0, 1, 2]}

# Status of each image, what became of its upload, and whether its bytes are kept.
IMAGES: Mapping[str, tuple[str, str, bool]] = {
    "arriving": ("QUEUED", "OPEN", True),
    "complete": ("QUEUED", "COMPLETED", True),
    "running": ("SAVING", "COMPLETED", True),
    "split": ("SAVING", "COMPLETED", True),
    "assembled": ("SAVING", "COMPLETED", True),
    "failed": ("ERROR", "COMPLETED", True),
    "lost": ("ERROR", "COMPLETED", True),
    "expired": ("ERROR", "EXPIRED", False),
    "active": ("ACTIVE", "COMPLETED", False),
}
# Made before 0006: its result has the key that its id gives.
OLD = "running"
UNDER_WAY = ("arriving", "complete", "running", "split", "assembled", "failed", "lost")


def id_of(prefix: str, name: str) -> str:
    """An id as long as all are."""
    return f"{prefix}_{name:0>26}"


PROJECT = id_of("prj", "alpha")


def upload(name: str) -> str:
    return id_of("upl", name)


def source(name: str) -> str:
    return id_of("src", name)


# Kind, state, image and detail of every job, as the version before wrote it, and the detail since.
JOBS: Mapping[str, tuple[str, str, str | None, dict[str, Any], dict[str, Any]]] = {
    "head": ("INSPECT_HEAD", "WAITING", "arriving", {"upload": upload("arriving")}, {"source": source("arriving")}),
    "convert": (
        "CONVERT", "WAITING", "complete", {"upload": upload("complete"), "times": 1, "lost": 2},
        {"source": source("complete"), "times": 1, "lost": 2},
    ),
    "converting": ("CONVERT", "RUNNING", OLD, {"upload": upload(OLD)}, {"source": source(OLD)}),
    "range0": (
        "STREAM_RANGE", "DONE", "split", {"upload": upload("split"), "shared": SHARED, "range": 0, "stored": 7},
        {"source": source("split"), "shared": SHARED, "range": 0, "stored": 7},
    ),
    "range1": (
        "STREAM_RANGE", "WAITING", "split", {"upload": upload("split"), "shared": SHARED, "range": 1},
        {"source": source("split"), "shared": SHARED, "range": 1},
    ),
    "assemble": (
        "ASSEMBLE", "WAITING", "assembled", {"upload": upload("assembled"), "shared": SHARED},
        {"source": source("assembled"), "shared": SHARED},
    ),
    "hash": ("HASH", "WAITING", "active", {"blob": id_of("blb", "active")}, {"blob": id_of("blb", "active")}),
    "erase": ("ERASE", "WAITING", None, {"uploads": [upload("expired")]}, {"sources": [source("expired")]}),
    "erase-keys": ("ERASE", "RUNNING", None, {"keys": ["blobs/gone"]}, {"keys": ["blobs/gone"]}),
    "over": ("CONVERT", "DONE", "active", {"upload": upload("active")}, {"upload": upload("active")}),
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A data folder and its database."""

    data: Path
    url: str
    settings: Mapping[str, str]


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    data = tmp_path / "data"
    data.mkdir()
    if request.param == "sqlite":
        return Place(data, f"sqlite+aiosqlite:///{data / 'images.db'}", {})
    server: PostgreSQL = request.getfixturevalue("postgresql")
    url = server.new_database(migrated=False)
    return Place(data, address(url), {"database_url": url})


def upgraded_to(place: Place, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", scripts().dir)
    config.attributes["url"] = place.url
    command.upgrade(config, revision)


def fill(connection: sa.Connection) -> None:
    """What a gateway of the version before has left."""
    tables = sa.MetaData()
    tables.reflect(connection)

    def add(table: str, *lines: dict[str, Any]) -> None:
        for line in lines:
            connection.execute(tables.tables[table].insert(), line)

    add("organization", {"id": "org", "name": "demo", "created_at": AT})
    add("project", {"id": PROJECT, "organization_id": "org", "name": "alpha", "created_at": AT, "revision": 1})
    add("blob", blob_row("active"))
    add("image", *map(image_row, IMAGES), copy_row())
    add("upload", *map(upload_row, IMAGES))
    add("job", *map(job_row, JOBS))
    add("storage_entry", *(entry_row(number, name) for number, name in enumerate(("active",))))


def blob_row(name: str) -> dict[str, Any]:
    return {
        "id": id_of("blb", name), "key": f"blobs/{name}.qcow2", "virtual_size": MIB, "stored_size": SIZE,
        "file_size": SIZE, "created_at": AT,
    }  # fmt: skip


def image_row(name: str) -> dict[str, Any]:
    status = IMAGES[name][0]
    failed = {
        "failure_code": "INTERNAL", "failure_message": "It failed.", "failure_hint": "Try again.",
        "failure_retriable": name != "expired", "failed_at": AT,
    }  # fmt: skip
    stored = {
        "blob_id": id_of("blb", name), "stored_size": SIZE, "virtual_size": MIB, "size_key": MIB, "reserved_size": 0,
    }  # fmt: skip
    return {
        "id": id_of("img", name), "project_id": PROJECT, "revision": 1, "type": "CUSTOM", "status": status,
        "visibility": "PROJECT", "name": name, "name_key": name, "labels": [], "protected": False, "created_by": "ada",
        "created_at": AT, "updated_at": AT, "size_key": -1, "reserved_size": SIZE if name in UNDER_WAY else 0,
        "source_kind": "UPLOAD", "source_file_name": f"{name}.raw", "source_size": SIZE,
        "source_sha256": SHA256 if name == "assembled" else None, "source_declared_format": "RAW", "warnings": [],
        **(failed if status == "ERROR" else {}), **(stored if status == "ACTIVE" else {}),
    }  # fmt: skip


def copy_row() -> dict[str, Any]:
    """A copy of the image that is ACTIVE."""
    origin = image_row("active")
    return origin | {
        "id": id_of("img", "copy"), "name": "copy", "name_key": "copy", "source_kind": "IMAGE",
        "source_image_id": origin["id"], "source_name": "active",
    }  # fmt: skip


def upload_row(name: str) -> dict[str, Any]:
    _status, state, kept = IMAGES[name]
    return {
        "id": upload(name), "image_id": id_of("img", name), "state": state, "key": f"uploads/{name}", "reference": "",
        "size": SIZE, "part_size": SIZE, "format": "RAW", "source_kept": kept,
        "result_id": id_of("blb", name), "result_key": None if name == OLD else f"blobs/{name}.qcow2",
        "created_at": AT, "expires_at": datetime.now(UTC) + timedelta(days=1),
    }  # fmt: skip


def job_row(name: str) -> dict[str, Any]:
    kind, state, image, detail, _since = JOBS[name]
    return {
        "id": f"job_{name}", "kind": kind, "state": state, "image_id": image and id_of("img", image), "detail": detail,
        "attempts": 1, "token": 1, "due_at": LONG_SINCE, "lease_until": LONG_SINCE if state == "RUNNING" else None,
        "created_at": AT,
    }  # fmt: skip


def entry_row(number: int, name: str) -> dict[str, Any]:
    return {
        "id": f"ent_{number}", "project_id": PROJECT, "image_id": id_of("img", name), "blob_id": id_of("blb", name),
        "stored_size": SIZE, "since": AT,
    }  # fmt: skip


async def put_objects(place: Place) -> None:
    """Put the bytes of all these into the folder, but those that are lost."""
    store = FolderStore(place.data / "store", SECRET.encode())
    try:
        await store.open_upload("uploads/arriving", SIZE, SIZE)
        kept = [f"uploads/{name}" for name in UNDER_WAY if name not in ("arriving", "lost")]
        for key in (*kept, "blobs/active.qcow2"):
            path = store.path(key)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(CONTENT)
    finally:
        store.close()


@pytest.fixture
async def upgraded(place: Place) -> AsyncIterator[Gateway]:
    """A gateway of this version on the database of the version before."""

    def upgrade() -> None:
        upgraded_to(place, BEFORE)
        within(place.url, fill)
        migrate(place.url)

    await put_objects(place)
    await anyio.to_thread.run_sync(upgrade)
    async with running_gateway(place.data, **place.settings) as gateway:
        yield gateway


async def all_of(gateway: Gateway, model: type[Any]) -> Sequence[Any]:
    async with gateway.database.read() as session:
        found: Sequence[Any] = (await session.execute(select(model).order_by(model.id))).scalars().all()
        return found


async def claim(gateway: Gateway, name: str) -> Any:
    found = await claimed(gateway.database, f"job_{name}", LEASE)
    assert found is not None
    return found


async def status_of(gateway: Gateway, name: str) -> ImageStatus:
    return (await gateway.image(id_of("img", name))).status


# ------------------------------------------------------------ rows


async def test_every_upload_has_a_source_that_says_what_it_said(upgraded: Gateway) -> None:
    found = await all_of(upgraded, Source)

    assert [one.id for one in found] == sorted(map(source, IMAGES))
    for one in found:
        name = one.key.removeprefix("uploads/")
        assert (one.id, one.image_id, one.result_id) == (source(name), id_of("img", name), id_of("blb", name))
        assert (one.kind, one.size, one.declared_format, one.created_at) == (SourceKind.UPLOAD, SIZE, "RAW", AT)
        assert (one.kept, one.declared_sha256) == (IMAGES[name][2], SHA256 if name == "assembled" else None)
        before = f"blobs/{id_of('blb', OLD)}.qcow2"
        assert one.key_of_result == (before if name == OLD else f"blobs/{name}.qcow2")


async def test_uploads_keep_what_only_they_have(upgraded: Gateway) -> None:
    found = await all_of(upgraded, Upload)

    assert [one.id for one in found] == sorted(map(upload, IMAGES))
    for one in found:
        name = one.source.key.removeprefix("uploads/")
        assert (one.id, one.source_id, one.image_id) == (upload(name), source(name), id_of("img", name))
        assert (one.state, one.reference, one.part_size) == (UploadState(IMAGES[name][1]), "", SIZE)
        assert one.created_at == AT


async def test_jobs_name_sources(upgraded: Gateway) -> None:
    found = {job.id: job for job in await all_of(upgraded, Job)}

    assert {id_: job.detail for id_, job in found.items()} == {f"job_{name}": job[4] for name, job in JOBS.items()}
    assert {id_: job.state for id_, job in found.items()} == {f"job_{name}": job[1] for name, job in JOBS.items()}


async def test_images_keep_file_and_size_and_need_neither_from_now_on(upgraded: Gateway) -> None:
    for name in IMAGES:
        row = await upgraded.image(id_of("img", name))
        assert (row.source_file_name, row.source_size) == (f"{name}.raw", SIZE)
    await upgraded.change(Image, id_of("img", "active"), source_file_name=None, source_size=None)
    row = await upgraded.image(id_of("img", "active"))
    assert (row.source_file_name, row.source_size) == (None, None)


async def test_to_go_back_gives_the_rows_that_there_were(place: Place) -> None:
    def round_trip() -> tuple[list[Any], list[Any]]:
        upgraded_to(place, BEFORE)
        within(place.url, fill)
        found = []
        for _ in range(2):
            uploads = "SELECT id, image_id, state, key, size, part_size, format, source_kept, result_id FROM upload"
            found.append([rows(place.url, f"{uploads} ORDER BY id"), rows(place.url, "SELECT id FROM job ORDER BY id")])
            upgraded_to(place, "0007")
            config = Config()
            config.set_main_option("script_location", scripts().dir)
            config.attributes["url"] = place.url
            command.downgrade(config, BEFORE)
        return found[0], found[1]

    before, after = await anyio.to_thread.run_sync(round_trip)
    assert before == after


# ------------------------------------------------------------ work


async def test_workers_begin_every_conversion_from_its_source(upgraded: Gateway) -> None:
    for job, name in (("convert", "complete"), ("converting", OLD), ("range1", "split"), ("assemble", "assembled")):
        assignment = await conversions.begin(upgraded.catalogue, await claim(upgraded, job))
        assert assignment is not None
        assert (assignment.source_id, assignment.source_key) == (source(name), f"uploads/{name}")
        assert (assignment.source_size, assignment.declared_format) == (SIZE, "RAW")
        assert assignment.declared_sha256 == (SHA256 if name == "assembled" else None)


async def test_what_is_to_be_erased_is_found(upgraded: Gateway) -> None:
    erasure = await conversions.to_erase(upgraded.catalogue, await claim(upgraded, "erase"))
    assert [handle.key for handle in erasure.uploads] == ["uploads/expired"]
    assert erasure.keys == ["blobs/expired.qcow2", "uploads/expired"]
    erasure = await conversions.to_erase(upgraded.catalogue, await claim(upgraded, "erase-keys"))
    assert (erasure.uploads, erasure.keys) == ([], ["blobs/gone"])


async def test_no_object_of_the_version_before_is_an_orphan(upgraded: Gateway) -> None:
    keys = {key for key, _ in await listed(upgraded.store)}
    assert await conversions.named_keys(upgraded.catalogue, keys) >= keys
    results = {f"blobs/{name}.qcow2" for name in UNDER_WAY if name != OLD} | {f"blobs/{id_of('blb', OLD)}.qcow2"}
    assert await conversions.named_keys(upgraded.catalogue, results) >= results
    waiting = {"uploads/expired", "blobs/expired.qcow2", "blobs/gone"}
    assert await conversions.named_keys(upgraded.catalogue, waiting) >= waiting


async def test_fsck_finds_the_source_that_is_lost_and_nothing_else(upgraded: Gateway) -> None:
    check = Fsck(upgraded.catalogue, timedelta(seconds=-3600), owner_of, repair=True)
    found = [(finding.problem, finding.image_id, finding.repaired) async for finding in check.findings()]
    assert found == [(Problem.MISSING_SOURCE, id_of("img", "lost"), True)]
    assert (await upgraded.mutate("retryImage", {"imageId": id_of("img", "lost")}))["userErrors"][0]["code"] == (
        "CONFLICT"
    )


@pytest.mark.needs_program("qemu-img")
async def test_everything_that_was_under_way_is_finished(upgraded: Gateway) -> None:
    assert shutil.which("qemu-img")
    for name in ("split", "assembled", "lost"):  # in a folder, no conversion is split
        await upgraded.mutate("deleteImage", {"imageId": id_of("img", name)})
    assert (await upgraded.mutate("retryImage", {"imageId": id_of("img", "failed")}))["userErrors"] == []
    await complete_arriving(upgraded)

    async with upgraded.working():
        await until(upgraded.idle)
        for name in ("arriving", "complete", OLD, "failed", "active", "copy"):
            assert await status_of(upgraded, name) == ImageStatus.ACTIVE, name
        assert all(job.state == JobState.DONE for job in await all_of(upgraded, Job))
        assert [one.id for one in await all_of(upgraded, Source) if one.kept] == []
        for name in ("arriving", "complete", OLD, "failed", "active", "copy"):
            await upgraded.mutate("deleteImage", {"imageId": id_of("img", name)})
        await until(upgraded.idle)

    assert upgraded.files() == []
    assert JobKind.HASH in {job.kind for job in await all_of(upgraded, Job)}


async def complete_arriving(gateway: Gateway) -> None:
    """Send the part that is missing of the open upload, by an address of this version, and complete it."""
    query = """query ($id: ID!) { node(id: $id) { ... on ImageUpload { state size receivedBytes
        parts(status: MISSING, first: 10) { nodes { number request { url } } } } } }"""
    found = (await gateway.ask(query, id=upload("arriving")))["node"]
    assert (found["state"], found["size"], found["receivedBytes"]) == ("OPEN", SIZE, 0)
    (part,) = found["parts"]["nodes"]
    assert (await gateway.client.put(part["request"]["url"], content=CONTENT)).status_code == 200
    assert (await gateway.mutate("completeUpload", {"uploadId": upload("arriving")}))["userErrors"] == []
