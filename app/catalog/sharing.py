"""Sharing an image with another project of its organization: at once, or by an offer that its admins answer.

A share belongs to the image's project, whose readers see it and whose admins make, change and revoke it. The project
that it is for sees it once it is accepted; before that, and after declining it, its admins do. Whatever changes a
share has the image's row locked.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from app.catalog import images
from app.catalog.feed import event_log
from app.catalog.feed.details import ShareChanged
from app.catalog.pages import Page, Window, read_page
from app.catalog.people import access, tenancy
from app.catalog.people.access import Right
from app.catalog.people.tenancy import LOCKED, is_id
from app.catalog.revisions import require_revision
from app.database.sessions import Database, Transaction
from app.errors import Conflict, DifferentOrganization, InvalidInput, NotFound, NotTargetAdmin
from app.lifecycle import (
    SHARE_ANSWERS,
    Aspect,
    ImageStatus,
    ImageType,
    ImageVisibility,
    ProjectRole,
    ShareGrant,
    ShareState,
)
from app.models import TABLES, Image, ImageShare, Project, now
from app.viewer import Viewer

_SHARE = TABLES.tables["image_share"].c
_IMAGE = TABLES.tables["image"].c

Changed = tuple[ImageShare, int | None]


# ---------------------------------------------------------------- reading


async def visible_shares(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, ImageShare]:
    """Those of the shares that the viewer may see, by id."""
    roles = tenancy.roles_of(viewer)
    own = select(roles.c.project_id)
    admin = own.where(roles.c.role == ProjectRole.ADMIN)
    query = (
        select(ImageShare)
        .join(Image, _IMAGE.id == _SHARE.image_id)
        .where(
            _SHARE.id.in_(ids),
            _IMAGE.deleted_at.is_(None),
            or_(
                _IMAGE.project_id.in_(own),
                _SHARE.project_id.in_(own) & (_SHARE.state == ShareState.ACCEPTED),
                _SHARE.project_id.in_(admin),
            ),
        )
    )
    return {share.id: share for share in (await session.execute(query)).scalars()}


async def names_of(session: AsyncSession, viewer: Viewer, image_ids: Sequence[str]) -> dict[str, str]:
    """What images are called that the viewer has come to by a share: by id, also where the image can't be seen yet."""
    query = select(Image.id, Image.name).where(col(Image.id).in_(image_ids))
    return {image_id: name for image_id, name in (await session.execute(query)).all()}


async def projects_by_id(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, Project]:
    """Projects that the viewer has come to by a share, by id, also where they may see no more than the name."""
    query = select(Project).where(col(Project.id).in_(ids))
    return {project.id: project for project in (await session.execute(query)).scalars()}


async def shares_of(session: AsyncSession, image_id: str, window: Window) -> Page[ImageShare]:
    """The shares of an image, in the order in which they were made."""
    return await read_page(session, _of_image(image_id), _SHARE.id, _SHARE.id, window)


async def count_shares(session: AsyncSession, image_id: str) -> int:
    """How many shares an image has."""
    return await _count(session, _of_image(image_id))


async def shares_with(session: AsyncSession, project_id: str, state: ShareState, window: Window) -> Page[ImageShare]:
    """The shares with a project that are in this state, in the order in which they were made."""
    return await read_page(session, _with_project(project_id, state), _SHARE.id, _SHARE.id, window)


async def count_shares_with(session: AsyncSession, project_id: str, state: ShareState) -> int:
    """How many shares with a project are in this state."""
    return await _count(session, _with_project(project_id, state))


def _of_image(image_id: str) -> SelectOfScalar[ImageShare]:
    return select(ImageShare).where(ImageShare.image_id == image_id)


def _with_project(project_id: str, state: ShareState) -> SelectOfScalar[ImageShare]:
    return select(ImageShare).where(ImageShare.project_id == project_id, ImageShare.state == state)


async def _count(session: AsyncSession, shares: SelectOfScalar[ImageShare]) -> int:
    return (await session.execute(select(func.count()).select_from(shares.subquery()))).scalar_one()


# ---------------------------------------------------------------- what the image's project does


async def share_image(
    database: Database, viewer: Viewer, image_id: str, project_id: str, grant: ShareGrant, *, offer: bool
) -> Changed:
    """Share an image; the feed position of that, or None when it had been shared so before.

    Whoever administers both projects shares at once; who administers the image's alone has to `offer`.
    Raises NotFound, Forbidden, InvalidInput, NotReady, DifferentOrganization, NotTargetAdmin, Conflict.
    """
    async with database.transaction() as tx:
        image = await access.image_for(tx.session, viewer, image_id, Right.SHARE, lock=True)
        await _require_sibling(tx.session, image, project_id)
        _require_shareable(image)
        state = await _state_to_begin_with(tx.session, viewer, project_id, offer=offer)
        query = _of_image(image.id).where(_SHARE.project_id == project_id)
        share = (await tx.session.execute(query)).scalar_one_or_none()
        if share is None:
            share = ImageShare(
                image_id=image.id, project_id=project_id, grant=grant, state=state, shared_by=viewer.subject
            )
            tx.session.add(share)
            await _tell(tx, image, share, viewer, accepted=state == ShareState.ACCEPTED)
        elif share.state == ShareState.ACCEPTED:
            _require_same_grant(share, grant)
        elif (share.state, share.grant) != (state, grant):
            await _change(tx, image, share, viewer, state=state, grant=grant, shared_by=viewer.subject)
    return share, tx.position


async def update_share(
    database: Database, viewer: Viewer, share_id: str, grant: ShareGrant, expected_revision: int | None
) -> Changed:
    """Let the members of the other project do more, or less. Raises NotFound, Forbidden, StaleRevision."""
    async with database.transaction() as tx:
        share, image = await _share_to_change(tx, viewer, share_id, expected_revision)
        if share.grant != grant:
            await _change(tx, image, share, viewer, grant=grant)
    return share, tx.position


async def revoke_share(database: Database, viewer: Viewer, share_id: str, expected_revision: int | None) -> Changed:
    """Take a share back, whatever its state: from here on the other project does not see the image any more.

    Gives the share as it was. Raises NotFound, Forbidden, StaleRevision.
    """
    async with database.transaction() as tx:
        share, image = await _share_to_change(tx, viewer, share_id, expected_revision)
        await tx.session.delete(share)
        await _tell(tx, image, share, viewer, accepted=share.state == ShareState.ACCEPTED, revoked=True)
    return share, tx.position


async def end_all(tx: Transaction, image: Image, *, actor: str) -> None:
    """End the shares of an image that is being deleted. Who could see it is told of that; who was offered it, here."""
    for share in (await tx.session.execute(_of_image(image.id).order_by(_SHARE.id))).scalars():
        if share.state == ShareState.OFFERED:
            _tell_project(tx, share.project_id, _Told(share, image.name, actor, True), ProjectRole.ADMIN)
        await tx.session.delete(share)


# ---------------------------------------------------------------- what the other project does


async def answer_share(
    database: Database, viewer: Viewer, share_id: str, answer: ShareState, expected_revision: int | None
) -> Changed:
    """Accept or decline what is offered, or give up what was accepted. Harmless when answered so before.

    Raises NotFound, NotTargetAdmin, StaleRevision, Conflict (the offer was declined before).
    """
    async with database.transaction() as tx:
        share, image = await _share_for(tx, viewer, share_id)
        if await tenancy.role_in(tx.session, viewer, share.project_id) != ProjectRole.ADMIN:
            raise NotTargetAdmin(
                "It takes an admin of the project that the image is shared with to answer.",
                field=("shareId",),
                hint="One of them finds it in project { shareOffers }.",
            )
        require_revision(share.revision, expected_revision, "share")
        if share.state != answer:
            if answer not in SHARE_ANSWERS[share.state]:
                raise Conflict(
                    f"The share is {share.state}, and can't become {answer}.",
                    field=("shareId",),
                    hint="Have it offered again.",
                )
            await _change(tx, image, share, viewer, state=answer)
    return share, tx.position


# ---------------------------------------------------------------- what both come down to


async def _share_to_change(
    tx: Transaction, viewer: Viewer, share_id: str, expected_revision: int | None
) -> tuple[ImageShare, Image]:
    """As `_share_for`, for an admin of the image's project. Raises NotFound, Forbidden, StaleRevision."""
    share, image = await _share_for(tx, viewer, share_id)
    own = await tenancy.role_in(tx.session, viewer, image.project_id)
    access.Access(own, ((share.grant, ProjectRole.READER),)).require(Right.SHARE, ("shareId",))
    require_revision(share.revision, expected_revision, "share")
    return share, image


async def _share_for(tx: Transaction, viewer: Viewer, share_id: str) -> tuple[ImageShare, Image]:
    """A share that the viewer may see, and its image. Both stay as they are until the transaction ends."""
    absent = NotFound("There is no such share.", field=("shareId",), hint="It may have been revoked.")
    if not is_id(share_id):
        raise absent
    # Only the share tells whose row is to be locked, and says how things stand only when it is.
    of_share = select(ImageShare.image_id).where(ImageShare.id == share_id)
    image_id = (await tx.session.execute(of_share)).scalar_one_or_none()
    if image_id is None:
        raise absent
    image = await tx.session.get_one(Image, image_id, with_for_update=LOCKED)
    share = (await visible_shares(tx.session, viewer, [share_id])).get(share_id)
    if share is None:
        raise absent
    return share, image


async def _change(tx: Transaction, image: Image, share: ImageShare, viewer: Viewer, **values: object) -> None:
    """Set columns of a share, whose image's row is locked, and tell whom it concerns."""
    before = share.state
    for name, value in values.items():
        setattr(share, name, value)
    share.revision += 1
    share.updated_at = now()
    await _tell(tx, image, share, viewer, accepted=ShareState.ACCEPTED in (before, share.state))


async def _tell(
    tx: Transaction, image: Image, share: ImageShare, viewer: Viewer, *, accepted: bool, revoked: bool = False
) -> None:
    """Publish the change of a share to both projects, and let the image's visibility follow, unless it is public.

    `accepted` says that it is, or just was: then it concerns every member of the other project, else its admins.
    """
    told = _Told(share, image.name, viewer.subject, revoked)
    _tell_project(tx, image.project_id, told, ProjectRole.READER)
    least_role = ProjectRole.READER if accepted else ProjectRole.ADMIN
    ends = accepted and (revoked or share.state != ShareState.ACCEPTED)
    _tell_project(tx, share.project_id, told, least_role, ends=ends)
    if image.visibility == ImageVisibility.PUBLIC:
        return
    is_shared = _of_image(image.id).where(_SHARE.state == ShareState.ACCEPTED)
    shared = await _count(tx.session, is_shared) > 0
    visibility = ImageVisibility.SHARED if shared else ImageVisibility.PROJECT
    if image.visibility != visibility:
        await images.change(tx, image, [Aspect.VISIBILITY], actor=viewer.subject, visibility=visibility)


class _Told(NamedTuple):
    """What both projects are told of a share, the name as it is now, and who did it."""

    share: ImageShare
    image_name: str
    actor: str
    revoked: bool


def _tell_project(
    tx: Transaction, project_id: str, told: _Told, least_role: ProjectRole, *, ends: bool = False
) -> None:
    """Tell one project of a share; `ends` says that it does not see the image any more."""
    share = told.share
    detail = ShareChanged(
        share_id=share.id,
        project_id=share.project_id,
        grant=share.grant,
        state=None if told.revoked else share.state,
        image_name=told.image_name,
        ends_sight=ends,
    )
    event_log.publish(tx, project_id, share.image_id, detail, actor=told.actor, least_role=least_role)


async def _state_to_begin_with(session: AsyncSession, viewer: Viewer, project_id: str, *, offer: bool) -> ShareState:
    """What becomes of a share with a project. Raises NotTargetAdmin."""
    if await tenancy.role_in(session, viewer, project_id) == ProjectRole.ADMIN:
        return ShareState.ACCEPTED
    if offer:
        return ShareState.OFFERED
    raise NotTargetAdmin(
        "It takes an admin of the other project to share an image with it at once.",
        field=("projectId",),
        hint="Be invited there as an admin, or offer it (offer: true): then an admin of that project can accept.",
    )


async def _require_sibling(session: AsyncSession, image: Image, project_id: str) -> None:
    """Raises NotFound, InvalidInput, DifferentOrganization.

    A project of another organization is answered as one that does not exist, so that nobody learns which ids are
    given: what is said is true of both.
    """
    if not is_id(project_id) or not project_id.startswith("prj_"):
        raise tenancy.no_project()
    if project_id == image.project_id:
        raise InvalidInput("The image belongs to this project.", field=("projectId",), hint="Name another one.")
    own = await session.get_one(Project, image.project_id)
    other = await session.get(Project, project_id)
    if other is None or other.organization_id != own.organization_id:
        raise DifferentOrganization(
            "The image's organization has no such project, and images can't be shared with other organizations.",
            field=("projectId",),
            hint="Sharing across organizations is planned, and not there yet: download the image and upload it there.",
        )


def is_shareable(image: Image) -> bool:
    """Whether an image can be shared at all, by whoever has the right."""
    wanted = image.type == ImageType.CUSTOM and image.visibility != ImageVisibility.PUBLIC
    return wanted and image.status == ImageStatus.ACTIVE


def _require_shareable(image: Image) -> None:
    if image.type != ImageType.CUSTOM:
        raise InvalidInput(
            f"The image is a {image.type}: only custom images can be shared.",
            field=("imageId",),
            hint="Make a custom image of it by createImage, and share that.",
        )
    if image.visibility == ImageVisibility.PUBLIC:
        raise InvalidInput(
            "The image is public: every project can use it without a share.",
            field=("imageId",),
            hint="To let another project edit it, copy it by createImage and share the copy.",
        )
    access.require_active(image, "shared", ("imageId",))


def _require_same_grant(share: ImageShare, grant: ShareGrant) -> None:
    if share.grant != grant:
        raise Conflict(
            f"The image is shared with this project already, for {share.grant}.",
            field=("grant",),
            hint="updateImageShare changes what a share allows.",
        )
