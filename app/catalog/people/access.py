"""Who can see an image, and what they may do with it: decided here for single images, pages, rights and the feed.

An image is seen by the members of its own project, by those of the projects that have accepted a share of it, and, if
it is public, by the members of every project. Through a share, its grant and the role in the project that it is shared
with decide what may be done. A public image may be launched and copied; only its own project changes it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import sqlalchemy
from sqlalchemy import ColumnElement, literal_column
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog.people import tenancy
from app.catalog.people.tenancy import LOCKED, is_id
from app.errors import Forbidden, NotFound, NotReady
from app.lifecycle import ROLE_RANK, ImageStatus, ImageVisibility, ProjectRole, ShareGrant, ShareState
from app.models import PUBLIC_FEED, TABLES, Image, ImageShare
from app.viewer import Viewer, includes

_IMAGE = TABLES.tables["image"].c
_SHARE = TABLES.tables["image_share"].c
# Spelled out, since a database uses the indexes of public images only when it reads the word in the statement.
_PUBLIC: ColumnElement[str] = literal_column(f"'{ImageVisibility.PUBLIC}'")
_IS_PUBLIC = _IMAGE.visibility == _PUBLIC
_ANY = TABLES.tables["image"].alias("any_image")


class Right(StrEnum):
    """What somebody may want to do with an image. MANAGE is to delete, to protect, to send and convert its bytes."""

    SEE = "see it"
    LAUNCH = "launch from it"
    EDIT = "change it"
    MANAGE = "manage it"
    SHARE = "share it"


# What somebody has to be in the project through which they do it.
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

    `own` is their role in its own project, `shared` those in projects that have a share of it. `public` are all their
    roles if every project sees it.
    """

    own: ProjectRole | None = None
    shared: tuple[tuple[ShareGrant, ProjectRole], ...] = ()
    public: frozenset[ProjectRole] = frozenset()

    def may(self, right: Right) -> bool:
        """Whether they hold a right."""
        return any(includes(role, _NEEDED[right]) for role in self.roles_for(right))

    def roles_for(self, right: Right) -> Sequence[ProjectRole]:
        """What they are in the projects through which the right can be had."""
        through = [role for grant, role in self.shared if right in _GRANTED[grant]]
        if right in _OF_PUBLIC:
            through += self.public
        return through if self.own is None else [self.own, *through]

    def require(self, right: Right, field: Sequence[str]) -> None:
        """Raises Forbidden for who sees the image, and does not hold the right."""
        roles = self.roles_for(right)
        if not roles:
            raise Forbidden(
                f"The image belongs to another project, which does not let yours {right}.",
                field=field,
                hint="An admin of the project that owns it decides. createImage can make a copy of your own.",
            )
        tenancy.require_role(max(roles, key=ROLE_RANK.__getitem__), _NEEDED[right], field)


async def accesses(
    session: AsyncSession, viewer: Viewer, ids: Sequence[str], *, through: str | None = None
) -> dict[str, Access]:
    """The viewer's access to those of the images that they can see, by id; only `through` one project, if given."""
    roles = tenancy.roles_of(viewer)
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
    if through is not None:
        own, shared = (query.where(roles.c.project_id == through) for query in (own, shared))
    found: dict[str, Access] = {}
    seen_by_all: list[str] = []
    for image_id, role, grant in (await session.execute(sqlalchemy.union_all(own, shared, public))).all():
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


async def visible_images(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, Image]:
    """Those of the images that are not deleted and that the viewer may see, by id."""
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
    """An image that is not deleted, with which the viewer may do something. Raises NotFound, Forbidden.

    With `lock` it stays as it is until the transaction ends, and so do its uploads and its shares.
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
    """As `image_for`, with all that the viewer is to the image."""
    image = await session.get(Image, image_id, with_for_update=LOCKED if lock else None) if is_id(image_id) else None
    access = (await accesses(session, viewer, [image_id])).get(image_id) if image else None
    if image is None or access is None or image.deleted_at is not None:
        raise no_image(field)
    access.require(right, field)
    return image, access


async def project_to_see_from(session: AsyncSession, viewer: Viewer, image: Image, preferred: str | None = None) -> str:
    """A project through which the viewer sees an image: the `preferred` one if it does, else the image's own."""
    projects: list[str | None] = [*await _projects_with(session, image)]
    if image.visibility == ImageVisibility.PUBLIC:
        projects += [preferred, await tenancy.first_project_of(session, viewer)]
    roles = await tenancy.roles_in(session, viewer, [project_id for project_id in projects if project_id])
    return next((id_ for id_ in (preferred, *projects) if id_ is not None and id_ in roles), image.project_id)


def no_image(field: Sequence[str] = ("imageId",)) -> NotFound:
    """What is said of an image that is not there, and of one that the caller may not see."""
    return NotFound("There is no such image.", field=field, hint="It may have been deleted.")


# ---------------------------------------------------------------- projects


@dataclass(frozen=True, slots=True)
class Sight:
    """One of the ways in which a project sees images.

    `condition` holds for the images that are seen in this way; `any` says whether there are some. In the orders of
    name, age and size, indexes have those of each status and type (`by_kind`), those of each type (`by_type`), or all
    (`together`). Without an index, they are few.
    """

    condition: ColumnElement[bool]
    any: ColumnElement[bool]
    by_kind: bool = False
    by_type: bool = False
    together: bool = False


def sights_of(project_id: str) -> tuple[Sight, Sight, Sight]:
    """The ways in which a project sees images: its own, those shared with it, and public ones. No image is in two."""
    shares = sqlalchemy.select(_SHARE.image_id).where(
        _SHARE.project_id == project_id, _SHARE.state == ShareState.ACCEPTED
    )
    # With an order, PostgreSQL takes the first of an index. Asked whether any exists, it may go through all images.
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
    """The feeds that an event about an image goes to, so that each project that sees the image gets it once."""
    if image.visibility == ImageVisibility.PUBLIC:
        return [PUBLIC_FEED]
    return await _projects_with(session, image)


async def _projects_with(session: AsyncSession, image: Image) -> Sequence[str]:
    """The project of an image, and then those that have accepted a share of it, by id."""
    if image.visibility != ImageVisibility.SHARED:
        return [image.project_id]
    query = sqlalchemy.select(_SHARE.project_id).where(_SHARE.image_id == image.id, _SHARE.state == ShareState.ACCEPTED)
    return [image.project_id, *(await session.execute(query.order_by(_SHARE.project_id))).scalars()]


async def seen_in_feeds(session: AsyncSession, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], Image]:
    """Of pairs of a feed and an image, those where all who follow the feed can see the image, which is not deleted.

    A project's feed stands for that project.
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


def is_launchable(image: Image) -> bool:
    """Whether servers can be launched from an image, by whoever has the right."""
    return image.status == ImageStatus.ACTIVE


def require_active(image: Image, done: str, field: Sequence[str]) -> None:
    """Raises NotReady when an image is not ACTIVE, and so can't be what is to be `done` with it."""
    if image.status != ImageStatus.ACTIVE:
        raise NotReady(
            f"The image is {image.status}: only ACTIVE images can be {done}.",
            field=field,
            hint="Watch it with the subscription `image` until it is ACTIVE.",
        )
