"""Who can see an image, and what they may do with it.

An image is seen by the members of its own project, and by those of the projects that have accepted a share of it.
What may be done through a share depends on its grant and on what somebody is in the project that it is shared with.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy
from sqlalchemy import ColumnElement, Select
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
# What the members of another project may do through a share.
_GRANTED = {
    ShareGrant.LAUNCH: frozenset({Right.SEE, Right.LAUNCH}),
    ShareGrant.LAUNCH_AND_EDIT: frozenset({Right.SEE, Right.LAUNCH, Right.EDIT}),
}


@dataclass(frozen=True, slots=True)
class Access:
    """What somebody is to an image: their role in its own project, and in each project that has a share of it."""

    own: ProjectRole | None = None
    shared: tuple[tuple[ShareGrant, ProjectRole], ...] = ()

    def may(self, right: Right) -> bool:
        """Whether they hold a right."""
        return any(includes(role, _NEEDED[right]) for role in self.roles_for(right))

    def roles_for(self, right: Right) -> Sequence[ProjectRole]:
        """What they are in the projects through which the right can be had."""
        through = [role for grant, role in self.shared if right in _GRANTED[grant]]
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
    """What the viewer is to those of the images that they can see, by id; only `through` that project, if given."""
    roles = tenancy.roles_of(viewer)
    own = (
        sqlalchemy.select(_IMAGE.id, roles.c.role, sqlalchemy.null().label("grant"))
        .join(roles, roles.c.project_id == _IMAGE.project_id)
        .where(_IMAGE.id.in_(ids), _IMAGE.deleted_at.is_(None))
    )
    shared = (
        sqlalchemy.select(_SHARE.image_id, roles.c.role, _SHARE.grant)
        .join(roles, roles.c.project_id == _SHARE.project_id)
        .where(_SHARE.image_id.in_(ids), _SHARE.state == ShareState.ACCEPTED)
    )
    if through is not None:
        own, shared = (query.where(roles.c.project_id == through) for query in (own, shared))
    found: dict[str, Access] = {}
    for image_id, role, grant in [*(await session.execute(own)).all(), *(await session.execute(shared)).all()]:
        known = found.get(image_id, Access())
        role = ProjectRole(role)
        if grant is None:
            found[image_id] = Access(role, known.shared)
        else:
            found[image_id] = Access(known.own, (*known.shared, (ShareGrant(grant), role)))
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
    projects = await _projects_with(session, image)
    roles = await tenancy.roles_in(session, viewer, projects)
    order = [preferred, *projects]
    return next((project_id for project_id in order if project_id in roles), image.project_id)


def no_image(field: Sequence[str] = ("imageId",)) -> NotFound:
    """What is said of an image that is not there, and of one that the caller may not see."""
    return NotFound("There is no such image.", field=field, hint="It may have been deleted.")


# ---------------------------------------------------------------- projects


def shared_with(project_id: str) -> Select[tuple[str]]:
    """The ids of the images that a project may use through shares."""
    return sqlalchemy.select(_SHARE.image_id).where(
        _SHARE.project_id == project_id, _SHARE.state == ShareState.ACCEPTED
    )


def any_shared_with(project_id: str) -> ColumnElement[bool]:
    """Whether a project may use any image through a share."""
    return shared_with(project_id).exists()


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
