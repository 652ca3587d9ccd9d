"""Sharing an image with another project of its organization: immediately, or by an offer that its admins answer.

A share belongs to the image's project, whose readers see it and whose admins create, change and revoke it. Members of
the target project see it once it is accepted; while it is offered or declined, only the admins do. Every change of a
share happens with the image's row locked.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from app.catalog import images
from app.catalog.catalogue import Catalogue, Written
from app.catalog.feed import event_log
from app.catalog.feed.details import ShareChanged
from app.catalog.pages import Page, Window, read_page
from app.catalog.people import access, tenancy
from app.catalog.people.access import Right
from app.catalog.people.tenancy import LOCKED, is_id
from app.catalog.revisions import require_revision
from app.database.sessions import Transaction
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
from app.models import TABLES, Image, ImageRow, ImageShare, Project, now
from app.viewer import Viewer

_SHARE = TABLES.tables["image_share"].c
_IMAGE = TABLES.tables["image"].c


# ---------------------------------------------------------------- reading


async def visible_shares(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, ImageShare]:
    """The shares that the viewer may see, by id."""
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
    """The names of images that the viewer reached through a share, by id, even if they can't see the image yet."""
    query = select(Image.id, Image.name).where(col(Image.id).in_(image_ids))
    return {image_id: name for image_id, name in (await session.execute(query)).all()}


async def projects_by_id(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, Project]:
    """Projects that the viewer reached through a share, by id, even if they may see only the name."""
    query = select(Project).where(col(Project.id).in_(ids))
    return {project.id: project for project in (await session.execute(query)).scalars()}


async def shares_of(session: AsyncSession, image_id: str, window: Window) -> Page[ImageShare]:
    """The shares of an image, in order of creation."""
    return await read_page(session, _of_image(image_id), _SHARE.id, _SHARE.id, window)


async def count_shares(session: AsyncSession, image_id: str) -> int:
    """The number of shares of an image."""
    return await _count(session, _of_image(image_id))


async def shares_with(session: AsyncSession, project_id: str, state: ShareState, window: Window) -> Page[ImageShare]:
    """The shares with a project that are in this state, in order of creation."""
    return await read_page(session, _with_project(project_id, state), _SHARE.id, _SHARE.id, window)


async def count_shares_with(session: AsyncSession, project_id: str, state: ShareState) -> int:
    """The number of shares with a project that are in this state."""
    return await _count(session, _with_project(project_id, state))


def _of_image(image_id: str) -> SelectOfScalar[ImageShare]:
    return select(ImageShare).where(ImageShare.image_id == image_id)


def _with_project(project_id: str, state: ShareState) -> SelectOfScalar[ImageShare]:
    return select(ImageShare).where(ImageShare.project_id == project_id, ImageShare.state == state)


async def _count(session: AsyncSession, shares: SelectOfScalar[ImageShare]) -> int:
    return (await session.execute(select(func.count()).select_from(shares.subquery()))).scalar_one()


# ---------------------------------------------------------------- by the image's project


async def share_image(
    catalogue: Catalogue, viewer: Viewer, image_id: str, project_id: str, grant: ShareGrant, *, offer: bool
) -> Written[ImageShare]:
    """Share an image. Publishes nothing if it was already shared this way.

    An admin of both projects shares immediately; an admin of only the image's project has to `offer`.
    Raises NotFound, Forbidden, InvalidInput, NotReady, DifferentOrganization, NotTargetAdmin, Conflict.
    """
    async with catalogue.database.transaction() as tx:
        image = await access.image_for(tx.session, viewer, image_id, Right.SHARE, lock=True)
        await _require_sibling(tx.session, image, project_id)
        _require_shareable(image)
        state = await _initial_state(tx.session, viewer, project_id, offer=offer)
        query = _of_image(image.id).where(_SHARE.project_id == project_id)
        share = (await tx.session.execute(query)).scalar_one_or_none()
        if share is None:
            share = ImageShare(
                image_id=image.id, project_id=project_id, grant=grant, state=state, shared_by=viewer.subject
            )
            tx.session.add(share)
            _publish(tx, image, share, viewer, accepted=state == ShareState.ACCEPTED)
            await _update_visibility(tx, image, viewer)
        elif share.state == ShareState.ACCEPTED:
            _require_same_grant(share, grant)
        elif (share.state, share.grant) != (state, grant):
            await _change(tx, image, share, viewer, state=state, grant=grant, shared_by=viewer.subject)
    return Written(share, tx.position)


async def update_share(
    catalogue: Catalogue, viewer: Viewer, share_id: str, grant: ShareGrant, expected_revision: int | None
) -> Written[ImageShare]:
    """Change what a share grants to the target project. Raises NotFound, Forbidden, StaleRevision."""
    async with catalogue.database.transaction() as tx:
        share, image = await _share_to_change(tx, viewer, share_id, expected_revision)
        if share.grant != grant:
            await _change(tx, image, share, viewer, grant=grant)
    return Written(share, tx.position)


async def revoke_share(
    catalogue: Catalogue, viewer: Viewer, share_id: str, expected_revision: int | None
) -> Written[ImageShare]:
    """Revoke a share in any state: the target project can no longer see the image.

    Returns the share as it was. Raises NotFound, Forbidden, StaleRevision.
    """
    async with catalogue.database.transaction() as tx:
        share, image = await _share_to_change(tx, viewer, share_id, expected_revision)
        await tx.session.delete(share)
        _publish(tx, image, share, viewer, accepted=share.state == ShareState.ACCEPTED, revoked=True)
        await _update_visibility(tx, image, viewer)
    return Written(share, tx.position)


async def revoke_all(tx: Transaction, image: Image, *, actor: str | None) -> None:
    """Delete the shares of an image that is being deleted.

    Only projects with an open offer get an event here: those that see the image get the event of its deletion.
    """
    for share in (await tx.session.execute(_of_image(image.id).order_by(_SHARE.id))).scalars():
        if share.state == ShareState.OFFERED:
            _publish_to(tx, share.project_id, _Change(share, image.name, actor, True), ProjectRole.ADMIN)
        await tx.session.delete(share)


# ---------------------------------------------------------------- by the target project


async def answer_share(
    catalogue: Catalogue, viewer: Viewer, share_id: str, answer: ShareState, expected_revision: int | None
) -> Written[ImageShare]:
    """Accept or decline an offer, or decline an accepted share. A repeated answer changes nothing.

    Raises NotFound, NotTargetAdmin, StaleRevision, Conflict (the offer was declined before).
    """
    async with catalogue.database.transaction() as tx:
        share, image = await _share_for(tx, viewer, share_id)
        if await tenancy.role_in(tx.session, viewer, share.project_id) != ProjectRole.ADMIN:
            raise NotTargetAdmin(
                "Only an admin of the project that the image is shared with can answer.",
                field=("shareId",),
                hint="Ask an admin of that project, who finds it in project { shareOffers }.",
            )
        require_revision(share.revision, expected_revision, "share")
        if share.state != answer:
            if answer not in SHARE_ANSWERS[share.state]:
                raise Conflict(
                    f"The share is {share.state} and can't become {answer}.",
                    field=("shareId",),
                    hint="Ask an admin of the image's project to offer it again.",
                )
            await _change(tx, image, share, viewer, state=answer)
    return Written(share, tx.position)


# ---------------------------------------------------------------- for both


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
    """A share that the viewer may see, and its image, both locked until the transaction ends. Raises NotFound."""
    absent = NotFound(
        "There is no such share.", field=("shareId",), hint="Check the id: the share may have been revoked."
    )
    if not is_id(share_id):
        raise absent
    # The share names the image to lock, and is read again once that is locked: only then is its state certain.
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
    """Set columns of a share, publish the change, and update the image's visibility. The image's row must be locked."""
    before = share.state
    for name, value in values.items():
        setattr(share, name, value)
    share.revision += 1
    share.updated_at = now()
    _publish(tx, image, share, viewer, accepted=ShareState.ACCEPTED in (before, share.state))
    await _update_visibility(tx, image, viewer)


def _publish(
    tx: Transaction, image: Image, share: ImageShare, viewer: Viewer, *, accepted: bool, revoked: bool = False
) -> None:
    """Publish the change of a share to both projects.

    `accepted` says that the share is, or just was, accepted: then all members of the target project see the event,
    otherwise only its admins.
    """
    change = _Change(share, image.name, viewer.subject, revoked)
    _publish_to(tx, image.project_id, change, ProjectRole.READER)
    least_role = ProjectRole.READER if accepted else ProjectRole.ADMIN
    ends = accepted and (revoked or share.state != ShareState.ACCEPTED)
    _publish_to(tx, share.project_id, change, least_role, ends=ends)


async def _update_visibility(tx: Transaction, image: Image, viewer: Viewer) -> None:
    """Set and publish the visibility that follows from the accepted shares. A public image stays public."""
    if image.visibility == ImageVisibility.PUBLIC:
        return
    is_shared = _of_image(image.id).where(_SHARE.state == ShareState.ACCEPTED)
    shared = await _count(tx.session, is_shared) > 0
    visibility = ImageVisibility.SHARED if shared else ImageVisibility.PROJECT
    if image.visibility != visibility:
        await images.change(tx, image, [Aspect.VISIBILITY], actor=viewer.subject, visibility=visibility)


class _Change(NamedTuple):
    """The change of a share that both projects get an event about: the image's current name, and who made it."""

    share: ImageShare
    image_name: str
    actor: str | None
    revoked: bool


def _publish_to(
    tx: Transaction, project_id: str, change: _Change, least_role: ProjectRole, *, ends: bool = False
) -> None:
    """Publish the change of a share to one project; `ends` says that the project can no longer see the image."""
    share = change.share
    detail = ShareChanged(
        share_id=share.id,
        project_id=share.project_id,
        grant=share.grant,
        state=None if change.revoked else share.state,
        image_name=change.image_name,
        ends_sight=ends,
    )
    event_log.publish(tx, project_id, share.image_id, detail, actor=change.actor, least_role=least_role)


async def _initial_state(session: AsyncSession, viewer: Viewer, project_id: str, *, offer: bool) -> ShareState:
    """The state of a new share with a project. Raises NotTargetAdmin."""
    if await tenancy.role_in(session, viewer, project_id) == ProjectRole.ADMIN:
        return ShareState.ACCEPTED
    if offer:
        return ShareState.OFFERED
    raise NotTargetAdmin(
        "Only an admin of the other project can share an image with it without an offer.",
        field=("projectId",),
        hint="Offer the image (offer: true), so that an admin of that project can accept it.",
    )


async def _require_sibling(session: AsyncSession, image: Image, project_id: str) -> None:
    """Raises NotFound, InvalidInput, DifferentOrganization.

    The error for a project of another organization and for one that does not exist is the same, so that it does not
    reveal which ids exist.
    """
    if not is_id(project_id) or not project_id.startswith("prj_"):
        raise tenancy.no_project()
    if project_id == image.project_id:
        raise InvalidInput("The image belongs to this project.", field=("projectId",), hint="Name another project.")
    own = await session.get_one(Project, image.project_id)
    other = await session.get(Project, project_id)
    if other is None or other.organization_id != own.organization_id:
        raise DifferentOrganization(
            "The image's organization has no such project, and images can't be shared with other organizations.",
            field=("projectId",),
            hint="Download the image and upload it to the other project: sharing across organizations is only planned.",
        )


def is_shareable(image: Image | ImageRow) -> bool:
    """Whether an image can be shared by users who have the right."""
    wanted = image.type == ImageType.CUSTOM and image.visibility != ImageVisibility.PUBLIC
    return wanted and image.status == ImageStatus.ACTIVE


def _require_shareable(image: Image) -> None:
    if image.type != ImageType.CUSTOM:
        raise InvalidInput(
            f"The image has the type {image.type}; only CUSTOM images can be shared.",
            field=("imageId",),
            hint="Copy it with createImage and share the copy.",
        )
    if image.visibility == ImageVisibility.PUBLIC:
        raise InvalidInput(
            "The image is public: every project can use it without a share.",
            field=("imageId",),
            hint="To let another project edit it, copy it with createImage and share the copy.",
        )
    access.require_active(image, "shared", ("imageId",))


def _require_same_grant(share: ImageShare, grant: ShareGrant) -> None:
    if share.grant != grant:
        raise Conflict(
            f"The image is already shared with this project, with the grant {share.grant}.",
            field=("grant",),
            hint="Change the grant with updateImageShare.",
        )
