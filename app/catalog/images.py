"""Images: reading, filtering, changing and deleting them, and the one place where their status moves."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from itertools import product
from typing import Any

import sqlalchemy
from sqlalchemy import Select, exists, func, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog import feed, jobs, tenancy
from app.catalog.merged_pages import merged_ids
from app.catalog.pages import Page, Window, read_page
from app.database import Database, Transaction
from app.errors import Conflict, ImageFailed, InvalidInput, ProtectedImage, StaleRevision
from app.lifecycle import (
    TRANSITIONS,
    EventKind,
    ImageStatus,
    ImageType,
    ImageVisibility,
    JobKind,
    ProjectRole,
    UploadState,
)
from app.models import TABLES, Blob, Image, Upload, now
from app.viewer import Viewer

_MAXIMUM_NAME = 255
_MAXIMUM_LABELS = 64
_MAXIMUM_LABEL_KEY = 63
_MAXIMUM_LABEL_VALUE = 255


class ImageOrder(StrEnum):
    NAME = "NAME"
    CREATED_AT = "CREATED_AT"
    SIZE = "SIZE"
    STATUS = "STATUS"
    TYPE = "TYPE"


# Pages are read as plain rows of the table: making fifty entities of them would cost as much as all the rest.
_TABLE = TABLES.tables["image"]
_COLUMNS = sqlalchemy.select(*_TABLE.c)

_SORT_KEYS: dict[ImageOrder, Any] = {
    ImageOrder.NAME: _TABLE.c.name_key,
    ImageOrder.CREATED_AT: _TABLE.c.created_at,
    ImageOrder.SIZE: _TABLE.c.size_key,
    ImageOrder.STATUS: _TABLE.c.status,
    ImageOrder.TYPE: _TABLE.c.type,
}


def sort_key(image: Image, order: ImageOrder) -> Any:
    """What an image is sorted by in this order; the cursor of its page holds it."""
    return getattr(image, _SORT_KEYS[order].key)


@dataclass(frozen=True, slots=True)
class ImageFilter:
    """Which images are wanted; None takes all."""

    types: Sequence[ImageType] | None = None
    statuses: Sequence[ImageStatus] | None = None
    visibilities: Sequence[ImageVisibility] | None = None
    os_families: Sequence[str] | None = None
    name_contains: str | None = None
    launchable: bool | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


def name_key(name: str) -> str:
    """A name as it is compared and sorted: without case, and in one form of Unicode."""
    return unicodedata.normalize("NFKC", name).casefold()


def clean_name(name: str, field: Sequence[str] = ("name",)) -> str:
    """A name without space around it. Raises InvalidInput when it is empty, too long or can't be shown."""
    cleaned = unicodedata.normalize("NFC", name).strip()
    if not cleaned or len(cleaned) > _MAXIMUM_NAME:
        raise InvalidInput(f"A name has 1 to {_MAXIMUM_NAME} characters.", field=field)
    require_text(cleaned, field)
    return cleaned


def require_text(text: str, field: Sequence[str]) -> None:
    """Raises InvalidInput when a text holds control characters or halves of characters."""
    if not is_text(text):
        raise InvalidInput("The text holds control characters.", field=field, hint="Take them out.")


def is_text(text: str) -> bool:
    """Whether a text holds neither control characters nor halves of characters, which databases don't take."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def clean_labels(labels: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Labels as they are kept, by key. Raises InvalidInput for too many, too long ones, or a key given twice."""
    if len(labels) > _MAXIMUM_LABELS:
        raise InvalidInput(f"An image has at most {_MAXIMUM_LABELS} labels.", field=("labels",))
    for at, (key, value) in enumerate(labels):
        if not 1 <= len(key) <= _MAXIMUM_LABEL_KEY or len(value) > _MAXIMUM_LABEL_VALUE:
            raise InvalidInput(
                f"A label's key has 1 to {_MAXIMUM_LABEL_KEY} characters, its value at most {_MAXIMUM_LABEL_VALUE}.",
                field=("labels", str(at)),
            )
        require_text(key + value, ("labels", str(at)))
    if len({key for key, _ in labels}) < len(labels):
        raise InvalidInput("A label's key is given twice.", field=("labels",))
    return [{"key": key, "value": value} for key, value in sorted(labels)]


def clean_os(family: str, version: str | None) -> tuple[str, str | None]:
    """An operating system as it is kept: the family in lower case, so that filters find it. Raises InvalidInput."""
    for part, field in ((family, "family"), (version or "x", "version")):
        if not 1 <= len(part.strip()) <= 64:
            raise InvalidInput("An operating system's family and version have 1 to 64 characters.", field=("os", field))
        require_text(part, ("os", field))
    return family.strip().lower(), version.strip() if version else None


# ---------------------------------------------------------------- reading


async def list_images(
    session: AsyncSession,
    viewer: Viewer,
    project_id: str,
    wanted: ImageFilter,
    order: ImageOrder,
    window: Window,
    *,
    descending: bool,
) -> Page[Image]:
    """A page of the images that a project can see: rows with the attributes of Image, which can't be changed.

    Raises NotFound when the viewer may not see the project.
    """
    if not tenancy.is_id(project_id):
        raise tenancy.no_project()
    query = _page_of(project_id, wanted, order, window, descending=descending)
    # The rows prove the right to see them; only where there are none it has to be asked for by itself.
    query = query.where(tenancy.is_member(viewer, project_id))
    page = await read_page(session, query, _SORT_KEYS[order], _TABLE.c.id, window, descending=descending)
    if not page.rows:
        await tenancy.require_reader(session, viewer, project_id)
    return page


async def count_images(session: AsyncSession, project_id: str, wanted: ImageFilter) -> int:
    """How many images match."""
    query = _matching(sqlalchemy.select(func.count(_TABLE.c.id)), project_id, wanted)
    count: int = (await session.execute(query)).scalar_one()
    return count


# The orders for which there is an index over (status, type, key, id).
_MERGED = (ImageOrder.NAME, ImageOrder.CREATED_AT, ImageOrder.SIZE)


def _page_of(
    project_id: str, wanted: ImageFilter, order: ImageOrder, window: Window, *, descending: bool
) -> Select[Any]:
    """Images that match: all of them, or, where these would have to be searched for, those of the page alone."""
    kinds = _kinds(wanted)
    if not kinds:
        return _COLUMNS.where(sqlalchemy.false())
    if order not in _MERGED or (wanted.statuses, wanted.types, wanted.launchable) == (None, None, None):
        return _matching(_COLUMNS, project_id, wanted)
    key, id_ = _SORT_KEYS[order], _TABLE.c.id
    rest = replace(wanted, statuses=None, types=None, launchable=None)
    places = _matching(sqlalchemy.select(key, id_), project_id, rest)
    of_kinds = (places.where(_TABLE.c.status == status, _TABLE.c.type == type_) for status, type_ in kinds)
    return _COLUMNS.where(id_.in_(merged_ids(of_kinds, key, id_, window, descending=descending)))


def _kinds(wanted: ImageFilter) -> Sequence[tuple[ImageStatus, ImageType]]:
    """Every status and type that an image may have to match."""
    statuses = [
        status
        for status in ImageStatus
        if (wanted.statuses is None or status in wanted.statuses)
        and wanted.launchable in (None, status is ImageStatus.ACTIVE)
    ]
    types = [type_ for type_ in ImageType if wanted.types is None or type_ in wanted.types]
    return list(product(statuses, types))


def _matching(query: Select[Any], project_id: str, wanted: ImageFilter) -> Select[Any]:
    image = _TABLE.c
    query = query.where(image.project_id == project_id, image.deleted_at.is_(None))
    chosen: tuple[tuple[Any, Sequence[Any] | None], ...] = (
        (image.type, wanted.types),
        (image.status, wanted.statuses),
        (image.visibility, wanted.visibilities),
        (image.os_family, wanted.os_families and [family.lower() for family in wanted.os_families]),
    )
    for column, values in chosen:
        if values is not None:
            query = query.where(column.in_(values))
    if wanted.name_contains:
        query = query.where(image.name_key.contains(name_key(wanted.name_contains), autoescape=True))
    if wanted.launchable is not None:
        query = query.where((image.status == ImageStatus.ACTIVE).is_(wanted.launchable))
    if wanted.created_after is not None:
        query = query.where(image.created_at > wanted.created_after)
    if wanted.created_before is not None:
        query = query.where(image.created_at < wanted.created_before)
    return query


async def image_named(session: AsyncSession, project_id: str, name: str) -> Image | None:
    """The image of that name: names need not be unique, so the newest that is ACTIVE, else the newest."""
    if not is_text(name):
        return None
    query = (
        select(Image)
        .where(
            Image.project_id == project_id,
            Image.name_key == name_key(name.strip()),
            col(Image.deleted_at).is_(None),
        )
        .order_by((col(Image.status) == ImageStatus.ACTIVE).desc(), col(Image.created_at).desc())
        .limit(1)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def visible_images(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, Image]:
    """Those of the images that are not deleted and that the viewer may see, by id."""
    query = select(Image).where(col(Image.id).in_(ids), col(Image.deleted_at).is_(None))
    images = (await session.execute(query)).scalars().all()
    projects = await tenancy.visible_projects(session, viewer, list({image.project_id for image in images}))
    return {image.id: image for image in images if image.project_id in projects}


# ---------------------------------------------------------------- changing


@dataclass(frozen=True, slots=True)
class ImagePatch:
    """What to change of an image: by field of the API, its columns. What is not in it stays as it is."""

    values: Mapping[str, Mapping[str, Any]]


async def update_image(
    database: Database, viewer: Viewer, image_id: str, patch: ImagePatch, expected_revision: int | None
) -> tuple[Image, int | None]:
    """Change an image; the feed position of the change, or None when nothing differed.

    Raises NotFound, Forbidden, StaleRevision.
    """
    async with database.transaction() as tx:
        image = await tenancy.image_for(tx.session, viewer, image_id, ProjectRole.MEMBER, lock=True)
        _require_revision(image, expected_revision)
        changed = {
            field: columns
            for field, columns in patch.values.items()
            if any(getattr(image, name) != value for name, value in columns.items())
        }
        if changed:
            values = {name: value for columns in changed.values() for name, value in columns.items()}
            change(tx, image, list(changed), actor=viewer.subject, **values)
    return image, tx.position


async def delete_image(
    database: Database, viewer: Viewer, image_id: str, expected_revision: int | None
) -> tuple[str, int | None]:
    """Remove an image from the catalogue and have its bytes freed. Raises NotFound, Forbidden, ProtectedImage."""
    async with database.transaction() as tx:
        image = await tenancy.image_for(tx.session, viewer, image_id, ProjectRole.MEMBER, lock=True)
        _require_revision(image, expected_revision)
        if image.protected:
            raise ProtectedImage(
                "The image is protected.", field=("imageId",), hint="updateImage with protected: false first."
            )
        await jobs.cancel_of_image(tx, image.id)
        await drop_source(tx, image, UploadState.ABORTED)
        blob_id, image.blob_id = image.blob_id, None
        image.deleted_at = image.updated_at = now()
        image.reserved_size = 0
        image.revision += 1
        feed.append(tx, EventKind.DELETED, image, actor=viewer.subject, imageName=image.name)
        if blob_id is not None:
            await _drop_blob(tx, blob_id)
    return image.id, tx.position


async def _drop_blob(tx: Transaction, blob_id: str) -> None:
    """Erase a blob that no image names any more (architecture, rule 8)."""
    # Of two that let go of it at once, the second looks when the first is through; and nobody can name it meanwhile.
    blob = await tx.session.get_one(Blob, blob_id, with_for_update=True)
    if (await tx.session.execute(select(exists().where(col(Image.blob_id) == blob_id)))).scalar():
        return
    await tx.session.delete(blob)
    jobs.start(tx, JobKind.ERASE, keys=[blob.key])


async def drop_source(tx: Transaction, image: Image, state: UploadState) -> None:
    """Have the uploaded bytes of an image erased; an upload that was still open ends in `state`."""
    query = select(Upload).where(Upload.image_id == image.id, col(Upload.source_kept).is_(True))
    for upload in (await tx.session.execute(query)).scalars():
        if upload.state == UploadState.OPEN:
            upload.state = state
        upload.source_kept = False
        jobs.start(tx, JobKind.ERASE, uploads=[upload.id])


def change(tx: Transaction, image: Image, fields: Sequence[str], *, actor: str | None = None, **values: Any) -> None:
    """Set columns of an image, whose row is locked, and tell the feed which `fields` of the API differ now."""
    for name, value in values.items():
        setattr(image, name, value)
    image.revision += 1
    image.updated_at = now()
    feed.append(tx, EventKind.UPDATED, image, actor=actor, fields=list(fields))


async def move(tx: Transaction, image: Image, to: ImageStatus, *, actor: str | None = None, **values: Any) -> None:
    """Move the status along `lifecycle.TRANSITIONS`, by compare-and-set, and tell the feed (architecture, rule 4).

    Raises Conflict when the image is not in a status from which it may go there.
    """
    before = image.status
    if to not in TRANSITIONS[before]:
        raise Conflict(f"The image is {before}, and can't become {to}.", field=("imageId",))
    at = now()
    moved = await tx.session.execute(
        update(Image)
        .where(col(Image.id) == image.id, col(Image.status) == before, col(Image.deleted_at).is_(None))
        .values(status=to, revision=Image.revision + 1, updated_at=at, **values)
        .returning(col(Image.id))
        .execution_options(synchronize_session=False)
    )
    if moved.scalar_one_or_none() is None:
        raise Conflict("The image has been changed by somebody else.", field=("imageId",), hint="Try again.")
    await tx.session.refresh(image)
    detail: dict[str, Any] = {"from": before, "to": to}
    if to == ImageStatus.ERROR:
        detail["failure"] = failure_detail(image)
    feed.append(tx, EventKind.STATUS_CHANGED, image, actor=actor, **detail)


async def fail(tx: Transaction, image: Image, failure: ImageFailed, **values: Any) -> None:
    """Move an image to ERROR with the reason."""
    await move(
        tx,
        image,
        ImageStatus.ERROR,
        failure_code=failure.code,
        failure_message=failure.message,
        failure_hint=failure.hint,
        failure_retriable=failure.retriable,
        failed_at=now(),
        **values,
    )


def failure_detail(image: Image) -> dict[str, Any]:
    """The failure of an image as the feed keeps it."""
    return {
        "code": image.failure_code,
        "message": image.failure_message,
        "hint": image.failure_hint,
        "retriable": image.failure_retriable,
        "occurredAt": image.failed_at.isoformat() if image.failed_at else None,
    }


def _require_revision(image: Image, expected: int | None) -> None:
    if expected is not None and expected != image.revision:
        raise StaleRevision(
            f"The image is at revision {image.revision}, not {expected}.",
            field=("expectedRevision",),
            hint="Read it again, and decide whether your change still fits.",
        )
