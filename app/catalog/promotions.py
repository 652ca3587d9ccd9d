"""Promoted snapshots: the images that were made of them, which keep them from being deleted."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, exists, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from app.catalog.pages import Page, Window, read_page
from app.errors import InUse
from app.lifecycle import SourceKind
from app.models import Image

# How many names an error lists.
_NAMED = 3
_PROMOTED = aliased(Image)


def is_pinned() -> ColumnElement[bool]:
    """The condition that an image was promoted to one that still exists."""
    return exists().where(
        col(_PROMOTED.source_image_id) == Image.id,
        col(_PROMOTED.source_kind) == SourceKind.SNAPSHOT,
        col(_PROMOTED.deleted_at).is_(None),
    )


async def pinned(session: AsyncSession, ids: Sequence[str]) -> set[str]:
    """Those of these images that were promoted to one that still exists."""
    return set((await session.execute(select(Image.id).where(col(Image.id).in_(ids), is_pinned()))).scalars())


async def page_of(session: AsyncSession, snapshot_id: str, window: Window) -> Page[Image]:
    """The images that a snapshot was promoted to, oldest first. They are of the same project."""
    return await read_page(session, _of(snapshot_id), col(Image.id), col(Image.id), window)


async def count(session: AsyncSession, snapshot_id: str) -> int:
    """The number of images that a snapshot was promoted to."""
    return (await session.execute(select(func.count()).select_from(_of(snapshot_id).subquery()))).scalar_one()


async def require_none(session: AsyncSession, image: Image) -> None:
    """Raises InUse, with the names of some of them, when an image was promoted to others. Its row must be locked."""
    page = await page_of(session, image.id, Window(_NAMED))
    if not page.rows:
        return
    names = ", ".join(promoted.name for promoted in page.rows)
    more = await count(session, image.id) - len(page.rows)
    others = f" and {more} more" if more else ""
    raise InUse(
        f"The snapshot was promoted to images, which keep it: {names}{others}.",
        field=("imageId",),
        hint="Delete the images in image { promotedTo } first.",
    )


def _of(snapshot_id: str) -> SelectOfScalar[Any]:
    return select(Image).where(
        Image.source_image_id == snapshot_id,
        Image.source_kind == SourceKind.SNAPSHOT,
        col(Image.deleted_at).is_(None),
    )
