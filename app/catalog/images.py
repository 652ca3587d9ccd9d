"""Images: reads, filters and changes them, and is the only place that changes their status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, StrEnum, auto
from itertools import product
from operator import attrgetter
from typing import Any

import sqlalchemy
from sqlalchemy import Select, func, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app import metrics
from app.catalog.catalogue import Catalogue, Written
from app.catalog.feed import event_log
from app.catalog.feed.details import Failure, StatusChanged, Updated
from app.catalog.pages import Page, Window, merged_ids, merged_pages, read_page
from app.catalog.people import access, tenancy
from app.catalog.people.access import Right, Sight
from app.catalog.revisions import require_revision
from app.catalog.text_search import contains
from app.catalog.texts import is_text, name_key
from app.database.sessions import Transaction
from app.errors import Conflict, ImageFailed
from app.lifecycle import TRANSITIONS, Aspect, ImageStatus, ImageType, ImageVisibility
from app.models import TABLES, Image, ImageRow, now
from app.sizes import GIB
from app.viewer import Viewer


class ImageOrder(StrEnum):
    NAME = "NAME"
    CREATED_AT = "CREATED_AT"
    SIZE = "SIZE"
    STATUS = "STATUS"
    TYPE = "TYPE"


# Pages are read as plain rows of the table: building fifty entities would cost as much as everything else.
_TABLE = TABLES.tables["image"]
_COLUMNS = sqlalchemy.select(*_TABLE.c)

_SORT_KEYS: dict[ImageOrder, Any] = {
    ImageOrder.NAME: _TABLE.c.name_key,
    ImageOrder.CREATED_AT: _TABLE.c.created_at,
    ImageOrder.SIZE: _TABLE.c.size_key,
    ImageOrder.STATUS: _TABLE.c.status,
    ImageOrder.TYPE: _TABLE.c.type,
}


def sort_key(image: Image | ImageRow, order: ImageOrder) -> Any:
    """The value that an image is sorted by in this order, as stored in page cursors."""
    return getattr(image, _SORT_KEYS[order].key)


@dataclass(frozen=True, slots=True)
class ImageFilter:
    """The conditions that an image has to meet, all of them. None is no condition; an empty list matches no image."""

    types: Sequence[ImageType] | None = None
    statuses: Sequence[ImageStatus] | None = None
    visibilities: Sequence[ImageVisibility] | None = None
    os_families: Sequence[str] | None = None
    name_contains: str | None = None
    launchable: bool | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


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
) -> Page[ImageRow]:
    """A page of the images that a project can see.

    Raises NotFound when the viewer may not see the project.
    """
    if not tenancy.is_id(project_id):
        raise tenancy.no_project()
    own, *others = access.sights_of(project_id)
    any_others = sqlalchemy.or_(*(sight.any for sight in others))

    async def read(*sights: Sight) -> Page[ImageRow]:
        query = _page_of(sights, wanted, order, window, descending=descending)
        query = query.add_columns(any_others.label("any_others")).where(tenancy.may_see(viewer, project_id))
        return await read_page(session, query, _SORT_KEYS[order], _TABLE.c.id, window, descending=descending)

    # The rows prove the right to see them, and say whether the project sees images of others. Only without any rows do
    # these take separate queries.
    page = await read(own)
    if not page.rows:
        await tenancy.reader_role(session, viewer, project_id)
        more = (await session.execute(sqlalchemy.select(any_others))).scalar_one()
    else:
        more = page.rows[0].any_others
    if not more:
        return page
    place = attrgetter(_SORT_KEYS[order].key, _TABLE.c.id.key)
    return merged_pages([page, await read(*others)], place, window, descending=descending)


async def count_images(session: AsyncSession, project_id: str, wanted: ImageFilter) -> int:
    """The number of matching images that a project can see."""
    # By one statement, but separately, since each has an index that covers its count.
    own, *others = (
        _matching(sqlalchemy.select(func.count(_TABLE.c.id)), sight, wanted).scalar_subquery()
        for sight in access.sights_of(project_id)
    )
    count: int = (await session.execute(sqlalchemy.select(sum(others, start=own)))).scalar_one()
    return count


# The orders with an index over (status, type, key, id).
_MERGED = (ImageOrder.NAME, ImageOrder.CREATED_AT, ImageOrder.SIZE)


def _page_of(
    sights: Sequence[Sight], wanted: ImageFilter, order: ImageOrder, window: Window, *, descending: bool
) -> Select[Any]:
    """Select the matching images: all of them, or only those of the page where finding all would take a scan."""
    if not _kinds(wanted):
        return _COLUMNS.where(sqlalchemy.false())
    splits = [_split_of(sight, wanted, order) for sight in sights]
    if splits == [_Split.WHOLE]:
        return _matching(_COLUMNS, sights[0], wanted)
    key, id_ = _SORT_KEYS[order], _TABLE.c.id
    places = sqlalchemy.select(key, id_)
    divided = zip(sights, splits, strict=True)
    parts = [part for sight, split in divided for part in _parts(places, sight, wanted, split)]
    return _COLUMNS.where(id_.in_(merged_ids(parts, key, id_, window, descending=descending)))


class _Split(Enum):
    """How to divide images into parts that an index has in order."""

    WHOLE = auto()
    BY_TYPE = auto()
    BY_KIND = auto()


def _split_of(sight: Sight, wanted: ImageFilter, order: ImageOrder) -> _Split:
    of_status = (wanted.statuses, wanted.launchable) != (None, None)
    if order not in _MERGED or not sight.by_kind:
        return _Split.WHOLE
    if sight.together and not of_status and wanted.types is None:
        return _Split.WHOLE
    return _Split.BY_TYPE if sight.by_type and not of_status else _Split.BY_KIND


def _parts(query: Select[Any], sight: Sight, wanted: ImageFilter, split: _Split) -> Sequence[Select[Any]]:
    """The queries for matching images that are visible in one way, divided by `split`."""
    if split is _Split.WHOLE:
        return [_matching(query, sight, wanted)]
    rest = _matching(query, sight, replace(wanted, statuses=None, types=None, launchable=None))
    kinds = _kinds(wanted)
    if split is _Split.BY_TYPE:
        return [rest.where(_TABLE.c.type == type_) for type_ in dict.fromkeys(type_ for _, type_ in kinds)]
    return [rest.where(_TABLE.c.status == status, _TABLE.c.type == type_) for status, type_ in kinds]


def _kinds(wanted: ImageFilter) -> Sequence[tuple[ImageStatus, ImageType]]:
    """All pairs of status and type that a matching image can have."""
    statuses = [
        status
        for status in ImageStatus
        if (wanted.statuses is None or status in wanted.statuses)
        and wanted.launchable in (None, status is ImageStatus.ACTIVE)
    ]
    types = [type_ for type_ in ImageType if wanted.types is None or type_ in wanted.types]
    return list(product(statuses, types))


def _matching(query: Select[Any], sight: Sight, wanted: ImageFilter) -> Select[Any]:
    image = _TABLE.c
    query = query.where(sight.condition, image.deleted_at.is_(None))
    chosen: tuple[tuple[Any, Sequence[Any] | None], ...] = (
        (image.type, wanted.types),
        (image.status, wanted.statuses),
        (image.visibility, wanted.visibilities),
        (image.os_family, wanted.os_families and [family.lower() for family in wanted.os_families]),
    )
    for column, values in chosen:
        if values is not None:
            # Each value once: a client may repeat them, and databases limit the parameters of a statement.
            query = query.where(column.in_(sorted(set(values))))
    if wanted.name_contains:
        query = query.where(contains(image.name_key, name_key(wanted.name_contains)))
    if wanted.launchable is not None:
        query = query.where((image.status == ImageStatus.ACTIVE).is_(wanted.launchable))
    if wanted.created_after is not None:
        query = query.where(image.created_at > wanted.created_after)
    if wanted.created_before is not None:
        query = query.where(image.created_at < wanted.created_before)
    return query


async def image_named(session: AsyncSession, project_id: str, name: str) -> Image | None:
    """The image of a name that a project can see: its own, else one shared with it, else a public one; None if none.

    Names need not be unique: of several, the newest ACTIVE image is returned, otherwise the newest.
    """
    if not is_text(name):
        return None
    for sight in access.sights_of(project_id):
        query = (
            select(Image)
            .where(sight.condition, Image.name_key == name_key(name.strip()), col(Image.deleted_at).is_(None))
            .order_by((col(Image.status) == ImageStatus.ACTIVE).desc(), col(Image.created_at).desc())
            .limit(1)
        )
        found = (await session.execute(query)).scalar_one_or_none()
        if found is not None:
            return found
    return None


def minimum_boot_disk(virtual_size: int) -> int:
    """The smallest boot disk, in GiB, of a server that is launched from a disk of `virtual_size` bytes."""
    return max(1, -(-virtual_size // GIB))


# ---------------------------------------------------------------- changing


@dataclass(frozen=True, slots=True)
class ImagePatch:
    """The changes to an image: the new values of columns, by aspect. Other columns stay unchanged."""

    values: Mapping[Aspect, Mapping[str, Any]]


async def update_image(
    catalogue: Catalogue, viewer: Viewer, image_id: str, patch: ImagePatch, expected_revision: int | None
) -> Written[Image]:
    """Change an image. Publishes nothing if no value differs. Raises NotFound, Forbidden, StaleRevision."""
    async with catalogue.database.transaction() as tx:
        image, held = await access.image_and_access(tx.session, viewer, image_id, Right.EDIT, lock=True)
        if Aspect.PROTECTION in patch.values:
            held.require(Right.MANAGE, ("protected",))
        require_revision(image.revision, expected_revision)
        changed = {
            aspect: columns
            for aspect, columns in patch.values.items()
            if any(getattr(image, name) != value for name, value in columns.items())
        }
        if changed:
            values = {name: value for columns in changed.values() for name, value in columns.items()}
            await change(tx, image, list(changed), actor=viewer.subject, **values)
    return Written(image, tx.position)


async def change(
    tx: Transaction, image: Image, aspects: Sequence[Aspect], *, actor: str | None = None, **values: Any
) -> None:
    """Set columns of an image, whose row must be locked, and publish which of its `aspects` changed."""
    for name, value in values.items():
        setattr(image, name, value)
    image.revision += 1
    image.updated_at = now()
    await event_log.append(tx, image, Updated(aspects), actor=actor)


async def move(tx: Transaction, image: Image, to: ImageStatus, *, actor: str | None = None, **values: Any) -> None:
    """Change the status along `lifecycle.TRANSITIONS`, by compare-and-set, and publish it (architecture, rule 4).

    Raises Conflict when the current status does not allow the transition, or has just changed.
    """
    before = image.status
    if to not in TRANSITIONS[before]:
        raise Conflict(f"The image is {before} and can't become {to}.", field=("imageId",))
    at = now()
    moved = await tx.session.execute(
        update(Image)
        .where(col(Image.id) == image.id, col(Image.status) == before, col(Image.deleted_at).is_(None))
        .values(status=to, revision=Image.revision + 1, updated_at=at, **values)
        .returning(col(Image.id))
        .execution_options(synchronize_session=False)
    )
    if moved.scalar_one_or_none() is None:
        raise Conflict(
            "The image was changed by another request at the same time.", field=("imageId",), hint="Try again."
        )
    await tx.session.refresh(image)
    failure = failure_of(image) if to == ImageStatus.ERROR else None
    await event_log.append(tx, image, StatusChanged(before, to, failure), actor=actor)


async def fail(tx: Transaction, image: Image, failure: ImageFailed, *, actor: str | None = None, **values: Any) -> None:
    """Set an image to ERROR with the reason."""
    await move(
        tx,
        image,
        ImageStatus.ERROR,
        actor=actor,
        failure_code=failure.code,
        failure_message=failure.message,
        failure_hint=failure.hint,
        failure_retriable=failure.retriable,
        failed_at=now(),
        **values,
    )
    tx.after_commit.append(metrics.IMAGES_FAILED.labels(failure.code).inc)


def failure_of(image: Image | ImageRow) -> Failure | None:
    """The last failure of an image; None if there was none."""
    if image.failure_code is None or image.failed_at is None:
        return None
    return Failure(
        code=image.failure_code,
        message=image.failure_message or "",
        hint=image.failure_hint or "",
        retriable=bool(image.failure_retriable),
        failed_at=image.failed_at,
    )
