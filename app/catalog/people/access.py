"""Decides who can see an image and what they may do with it: for single images, pages, rights and the feed.

An image is visible to the members of its own project, to those of projects that have accepted a share of it, and, if
it is public, to the members of every project. Through a share, its grant and the role in the target project decide
what is allowed. Every project may launch and copy a public image; only its own project may change it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, lru_cache
from typing import Any

import sqlalchemy
from sqlalchemy import BindParameter, ColumnElement, CompoundSelect, bindparam, literal_column
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog.people import tenancy
from app.catalog.people.tenancy import BUILT_CONDITIONS, LOCKED, is_id
from app.errors import Forbidden, NotFound, NotReady
from app.lifecycle import ROLE_RANK, ImageStatus, ImageVisibility, ProjectRole, ShareGrant, ShareState
from app.models import PUBLIC_FEED, TABLES, Image, ImageRow, ImageShare
from app.viewer import Viewer, includes

_IMAGE = TABLES.tables["image"].c
_SHARE = TABLES.tables["image_share"].c
# A literal, not a parameter: databases use the indexes of public images only when the value is in the statement.
_PUBLIC: ColumnElement[str] = literal_column(f"'{ImageVisibility.PUBLIC}'")
_IS_PUBLIC = _IMAGE.visibility == _PUBLIC
_ANY = TABLES.tables["image"].alias("any_image")


class Right(StrEnum):
    """What a user may do with an image. MANAGE includes deleting, protecting, uploading and converting."""

    SEE = "see it"
    LAUNCH = "launch from it"
    EDIT = "change it"
    MANAGE = "manage it"
    SHARE = "share it"


# The role that each right requires in the project through which it is used.
_NEEDED = {
    Right.SEE: ProjectRole.READER,
    Right.LAUNCH: ProjectRole.MEMBER,
    Right.EDIT: ProjectRole.MEMBER,
    Right.MANAGE: ProjectRole.MEMBER,
    Right.SHARE: ProjectRole.ADMIN,
}
# What the members of other projects may do with a public image.
_OF_PUBLIC = frozenset({Right.SEE, Right.LAUNCH})
# What the members of another project may do through a share.
_GRANTED = {
    ShareGrant.LAUNCH: frozenset({Right.SEE, Right.LAUNCH}),
    ShareGrant.LAUNCH_AND_EDIT: frozenset({Right.SEE, Right.LAUNCH, Right.EDIT}),
}


@dataclass(frozen=True, slots=True)
class Access:
    """A caller's roles in the projects through which they see an image.

    `own` is their role in the image's project, `shared` are the grants of shares with their roles in those projects.
    `public` are all their roles if the image is public.
    """

    own: ProjectRole | None = None
    shared: tuple[tuple[ShareGrant, ProjectRole], ...] = ()
    public: frozenset[ProjectRole] = frozenset()

    def may(self, right: Right) -> bool:
        """Whether the caller has a right."""
        return any(includes(role, _NEEDED[right]) for role in self.roles_for(right))

    def roles_for(self, right: Right) -> Sequence[ProjectRole]:
        """The caller's roles in the projects that can grant the right."""
        through = [role for grant, role in self.shared if right in _GRANTED[grant]]
        if right in _OF_PUBLIC:
            through += self.public
        return through if self.own is None else [self.own, *through]

    def require(self, right: Right, field: Sequence[str]) -> None:
        """Raises Forbidden when the caller does not have the right."""
        roles = self.roles_for(right)
        if not roles:
            raise Forbidden(
                f"The image belongs to another project, which does not let your project {right}.",
                field=field,
                hint="Ask an admin of the project that owns it, or make a copy of your own with createImage.",
            )
        tenancy.require_role(max(roles, key=ROLE_RANK.__getitem__), _NEEDED[right], field)


async def accesses(
    session: AsyncSession, viewer: Viewer, ids: Sequence[str], *, through: str | None = None
) -> dict[str, Access]:
    """The viewer's access to the images that they can see, by id; only `through` one project, if given."""
    paths = _paths_to_images(operator=viewer.operator, within_one=through is not None)
    parameters = {"subject": viewer.subject, "ids": list(ids), "through": through}
    found: dict[str, Access] = {}
    seen_by_all: list[str] = []
    for image_id, role, grant in (await session.execute(paths, parameters)).all():
        known = found.get(image_id, Access())
        if role is None:
            seen_by_all.append(image_id)
        elif grant is None:
            found[image_id] = replace(known, own=ProjectRole(role))
        else:
            found[image_id] = replace(known, shared=(*known.shared, (ShareGrant(grant), ProjectRole(role))))
    held = frozenset(await tenancy.roles_held(session, viewer, through)) if seen_by_all else frozenset()
    if held:
        found |= {image_id: replace(found.get(image_id, Access()), public=held) for image_id in seen_by_all}
    return found


@cache
def _paths_to_images(*, operator: bool, within_one: bool) -> CompoundSelect[Any]:
    """Select the ways in which the viewer `subject` sees the images `ids`: id, role and grant.

    Role and grant are null for a public image. `within_one` project, only the ways `through` that one are selected.
    """
    roles = tenancy.selected_roles(bindparam("subject"), operator=operator)
    ids: BindParameter[Any] = bindparam("ids", expanding=True)
    none = sqlalchemy.null()
    own = (
        sqlalchemy.select(_IMAGE.id, roles.c.role, none.label("grant"))
        .join(roles, roles.c.project_id == _IMAGE.project_id)
        .where(_IMAGE.id.in_(ids), _IMAGE.deleted_at.is_(None))
    )
    shared = (
        sqlalchemy.select(_SHARE.image_id, roles.c.role, _SHARE.grant)
        .join(roles, roles.c.project_id == _SHARE.project_id)
        .where(_SHARE.image_id.in_(ids), _SHARE.state == ShareState.ACCEPTED)
    )
    public = sqlalchemy.select(_IMAGE.id, none, none).where(_IMAGE.id.in_(ids), _IS_PUBLIC, _IMAGE.deleted_at.is_(None))
    if within_one:
        own, shared = (query.where(roles.c.project_id == bindparam("through")) for query in (own, shared))
    return sqlalchemy.union_all(own, shared, public)


async def visible_images(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, Image]:
    """The images that the viewer may see and that are not deleted, by id."""
    seen = await accesses(session, viewer, ids)
    query = select(Image).where(col(Image.id).in_(seen), col(Image.deleted_at).is_(None))
    return {image.id: image for image in (await session.execute(query)).scalars()} if seen else {}


async def image_for(
    session: AsyncSession,
    viewer: Viewer,
    image_id: str,
    right: Right = Right.SEE,
    *,
    field: Sequence[str] = ("imageId",),
    lock: bool = False,
) -> Image:
    """An image that is not deleted and for which the viewer has the right. Raises NotFound, Forbidden.

    With `lock`, the image, its uploads and its shares can't change until the transaction ends.
    """
    return (await image_and_access(session, viewer, image_id, right, field=field, lock=lock))[0]


async def image_and_access(
    session: AsyncSession,
    viewer: Viewer,
    image_id: str,
    right: Right,
    *,
    field: Sequence[str] = ("imageId",),
    lock: bool = False,
) -> tuple[Image, Access]:
    """As `image_for`, with the viewer's access to the image."""
    image = await session.get(Image, image_id, with_for_update=LOCKED if lock else None) if is_id(image_id) else None
    access = (await accesses(session, viewer, [image_id])).get(image_id) if image else None
    if image is None or access is None or image.deleted_at is not None:
        raise no_image(field)
    access.require(right, field)
    return image, access


async def image_to_launch(
    session: AsyncSession, viewer: Viewer, image_id: str, project_id: str, refusal: Forbidden
) -> Image:
    """An image that a project may launch, locked, for a viewer who sees it. It need not be ACTIVE.

    Raises NotFound when the viewer does not see it, and `refusal`, whose field is that of the image, when the project
    may not launch it.
    """
    image = await image_for(session, viewer, image_id, field=refusal.field, lock=True)
    through = (await accesses(session, viewer, [image.id], through=project_id)).get(image.id)
    if through is None or not through.may(Right.LAUNCH):
        raise refusal
    return image


async def project_to_see_from(session: AsyncSession, viewer: Viewer, image: Image, preferred: str | None = None) -> str:
    """A project through which the viewer sees an image: `preferred` if possible, else the image's own."""
    projects: list[str | None] = [*await _projects_with(session, image)]
    if image.visibility == ImageVisibility.PUBLIC:
        projects += [preferred, await tenancy.first_project_of(session, viewer)]
    roles = await tenancy.roles_in(session, viewer, [project_id for project_id in projects if project_id])
    return next((id_ for id_ in (preferred, *projects) if id_ is not None and id_ in roles), image.project_id)


def no_image(field: Sequence[str] = ("imageId",)) -> NotFound:
    """The error for an image that does not exist, and for one that the caller may not see."""
    return NotFound("There is no such image.", field=field, hint="Check the id: the image may have been deleted.")


# ---------------------------------------------------------------- projects


@dataclass(frozen=True, slots=True)
class Sight:
    """One of the ways in which a project sees images.

    `condition` holds for the images that are visible in this way; `any` says whether there are any. Ordered by name,
    creation time or size, indexes have those of each status and type (`by_kind`), those of each type (`by_type`), or
    all (`together`). Without an index, there are only a few.
    """

    condition: ColumnElement[bool]
    any: ColumnElement[bool]
    by_kind: bool = False
    by_type: bool = False
    together: bool = False


@lru_cache(BUILT_CONDITIONS)
def sights_of(project_id: str) -> tuple[Sight, Sight, Sight]:
    """The ways in which a project sees images: its own, those shared with it, and public ones. They don't overlap."""
    shares = sqlalchemy.select(_SHARE.image_id).where(
        _SHARE.project_id == project_id, _SHARE.state == ShareState.ACCEPTED
    )
    # With an order, PostgreSQL reads the first entry of an index; for EXISTS, it may scan all images.
    public = (
        sqlalchemy.select(_ANY.c.id)
        .where(_ANY.c.visibility == _PUBLIC, _ANY.c.deleted_at.is_(None))
        .order_by(_ANY.c.status, _ANY.c.type, _ANY.c.created_at, _ANY.c.id)
        .limit(1)
        .scalar_subquery()
    )
    return (
        Sight(_IMAGE.project_id == project_id, sqlalchemy.true(), by_kind=True, together=True),
        Sight(_IMAGE.id.in_(shares) & ~_IS_PUBLIC, shares.exists()),
        Sight(_IS_PUBLIC & (_IMAGE.project_id != project_id), public.is_not(None), by_kind=True, by_type=True),
    )


def feeds_followed_by(project_id: str) -> Sequence[str]:
    """The feeds that a watcher in a project follows: the project's own and the public one."""
    return project_id, PUBLIC_FEED


async def audience(session: AsyncSession, image: Image) -> Sequence[str]:
    """The feeds to publish an event about an image to, so that each project that sees the image gets it once."""
    if image.visibility == ImageVisibility.PUBLIC:
        return [PUBLIC_FEED]
    return await _projects_with(session, image)


async def _projects_with(session: AsyncSession, image: Image) -> Sequence[str]:
    """The project of an image, followed by those that have accepted a share of it, ordered by id."""
    if image.visibility != ImageVisibility.SHARED:
        return [image.project_id]
    query = sqlalchemy.select(_SHARE.project_id).where(_SHARE.image_id == image.id, _SHARE.state == ShareState.ACCEPTED)
    return [image.project_id, *(await session.execute(query.order_by(_SHARE.project_id))).scalars()]


async def seen_in_feeds(session: AsyncSession, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], Image]:
    """The images that the followers of a feed can see, for pairs of a feed and an image; other pairs are left out.

    The followers of a project's feed are the members of that project. Deleted images are left out, too.
    """
    ids = {image_id for _, image_id in pairs}
    if not ids:
        return {}
    query = select(Image).where(col(Image.id).in_(ids), col(Image.deleted_at).is_(None))
    images = {image.id: image for image in (await session.execute(query)).scalars()}
    seen = {
        (feed, image_id)
        for feed, image_id in pairs
        if image_id in images
        and (images[image_id].visibility == ImageVisibility.PUBLIC or images[image_id].project_id == feed)
    }
    foreign = {image_id for feed, image_id in pairs if image_id in images and (feed, image_id) not in seen}
    if foreign:
        shares = select(ImageShare.project_id, ImageShare.image_id).where(
            col(ImageShare.image_id).in_(foreign), ImageShare.state == ShareState.ACCEPTED
        )
        seen |= {(project_id, image_id) for project_id, image_id in (await session.execute(shares)).all()}
    return {pair: images[pair[1]] for pair in pairs if pair in seen}


def is_launchable(image: Image | ImageRow) -> bool:
    """Whether users who have the right can launch servers from an image."""
    return image.status == ImageStatus.ACTIVE


def require_active(image: Image, done: str, field: Sequence[str]) -> None:
    """Raises NotReady when an image is not ACTIVE and therefore can't be `done`, such as "copied"."""
    if image.status != ImageStatus.ACTIVE:
        failed = image.status == ImageStatus.ERROR
        raise NotReady(
            f"The image is {image.status}: only ACTIVE images can be {done}.",
            field=field,
            hint="Read image { failure { hint } } and follow it."
            if failed
            else "Watch it with the subscription `image` until it is ACTIVE.",
        )
