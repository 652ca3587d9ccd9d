"""Organizations, projects and members; and what a caller may see and do there."""

import re
from collections.abc import Sequence

from sqlalchemy import ColumnElement, exists, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.selectable import ForUpdateArg
from sqlmodel import col, select

from app.catalog.pages import Page, Window, read_page
from app.database import Database, Transaction
from app.errors import Forbidden, NotFound
from app.lifecycle import ProjectRole
from app.models import TABLES, Image, Membership, Organization, Project
from app.postgres import Lock
from app.viewer import Viewer, includes

_ID = re.compile(r"[a-z]{3}_[0-9a-z]{26}")
# Keeps others from changing the row, but not from writing rows that name it. SQLite has one writer anyway.
LOCKED = ForUpdateArg(key_share=True)
_NEEDS = {
    ProjectRole.READER: "see this project",
    ProjectRole.MEMBER: "change images",
    ProjectRole.ADMIN: "administer",
}


def is_id(text: str) -> bool:
    """Whether a text has the form of our ids. Databases do not take every text, so no row is looked for by others."""
    return _ID.fullmatch(text) is not None


async def role_in(session: AsyncSession, viewer: Viewer, project_id: str) -> ProjectRole | None:
    """What the viewer is in a project; None for somebody from outside."""
    if not is_id(project_id):
        return None
    query = select(Membership.role).where(Membership.project_id == project_id, Membership.subject == viewer.subject)
    role = (await session.execute(query)).scalar_one_or_none()
    return None if role is None else ProjectRole(role)


async def project_for(
    session: AsyncSession,
    viewer: Viewer,
    project_id: str,
    needed: ProjectRole = ProjectRole.READER,
    *,
    field: Sequence[str] = ("projectId",),
    lock: bool = False,
) -> Project:
    """A project in which the viewer has the role. Raises NotFound for who may not see it, Forbidden for the rest.

    With `lock` nobody else creates in it until the transaction ends.
    """
    query = (
        select(Project, Membership.role)
        .join(Membership, col(Membership.project_id) == Project.id)
        .where(Project.id == project_id, Membership.subject == viewer.subject)
    )
    if lock:
        query = query.with_for_update(of=Project, key_share=True)
    found = (await session.execute(query)).one_or_none() if is_id(project_id) else None
    if found is None:
        raise no_project(field)
    project, role = found
    _require(ProjectRole(role), needed, field)
    return project


async def require_reader(
    session: AsyncSession, viewer: Viewer, project_id: str, *, field: Sequence[str] = ("projectId",)
) -> None:
    """Raises NotFound when the viewer may not see the project."""
    if await role_in(session, viewer, project_id) is None:
        raise no_project(field)


def is_member(viewer: Viewer, project_id: str) -> ColumnElement[bool]:
    """The condition that the viewer belongs to a project."""
    member = TABLES.tables["membership"].c
    return exists().where(member.project_id == project_id, member.subject == viewer.subject)


def no_project(field: Sequence[str] = ("projectId",)) -> NotFound:
    """What is said of a project that is not there, and of one that the caller may not see."""
    return NotFound("There is no such project.", field=field, hint="viewer { projects } lists yours.")


async def image_for(
    session: AsyncSession,
    viewer: Viewer,
    image_id: str,
    needed: ProjectRole = ProjectRole.READER,
    *,
    field: Sequence[str] = ("imageId",),
    lock: bool = False,
) -> Image:
    """An image that is not deleted, in whose project the viewer has the role. Raises NotFound, Forbidden.

    With `lock` it stays as it is until the transaction ends, and so do its uploads.
    """
    image = await session.get(Image, image_id, with_for_update=LOCKED if lock else None) if is_id(image_id) else None
    role = await role_in(session, viewer, image.project_id) if image else None
    if image is None or role is None or image.deleted_at is not None:
        raise NotFound("There is no such image.", field=field, hint="It may have been deleted.")
    _require(role, needed, field)
    return image


def _require(role: ProjectRole, needed: ProjectRole, field: Sequence[str]) -> None:
    if not includes(role, needed):
        raise Forbidden(
            f"It takes the role {needed} in this project to {_NEEDS[needed]}; yours is {role}.",
            field=field,
            hint="An admin of the project can give you the role.",
        )


async def visible_projects(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, Project]:
    """Those of the projects that the viewer may see, by id."""
    query = (
        select(Project)
        .join(Membership, col(Membership.project_id) == Project.id)
        .where(Membership.subject == viewer.subject, col(Project.id).in_(ids))
    )
    return {project.id: project for project in (await session.execute(query)).scalars()}


async def roles_in(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, ProjectRole]:
    """What the viewer is in those of the projects that they belong to, by id."""
    query = select(Membership.project_id, Membership.role).where(
        Membership.subject == viewer.subject, col(Membership.project_id).in_(ids)
    )
    return {project_id: ProjectRole(role) for project_id, role in (await session.execute(query)).all()}


async def visible_organizations(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, Organization]:
    """Those of the organizations of which the viewer may see a project, by id."""
    query = (
        select(Organization)
        .where(col(Organization.id).in_(ids))
        .where(
            col(Organization.id).in_(
                select(Project.organization_id)
                .join(Membership, col(Membership.project_id) == Project.id)
                .where(Membership.subject == viewer.subject)
            )
        )
    )
    return {organization.id: organization for organization in (await session.execute(query)).scalars()}


async def projects_of(
    session: AsyncSession, viewer: Viewer, window: Window, *, organization_id: str | None = None
) -> Page[Project]:
    """The projects that the viewer may see, by name."""
    query = (
        select(Project)
        .join(Membership, col(Membership.project_id) == Project.id)
        .where(Membership.subject == viewer.subject)
    )
    if organization_id is not None:
        query = query.where(Project.organization_id == organization_id)
    return await read_page(session, query, col(Project.name), col(Project.id), window)


async def count_projects(session: AsyncSession, viewer: Viewer, *, organization_id: str | None = None) -> int:
    """How many projects the viewer may see."""
    query = (
        select(func.count())
        .select_from(Membership)
        .join(Project, col(Membership.project_id) == Project.id)
        .where(Membership.subject == viewer.subject)
    )
    if organization_id is not None:
        query = query.where(Project.organization_id == organization_id)
    return (await session.execute(query)).scalar_one()


async def members_of(session: AsyncSession, project_id: str, window: Window) -> Page[Membership]:
    """The members of a project, by subject."""
    query = select(Membership).where(Membership.project_id == project_id)
    return await read_page(session, query, col(Membership.subject), col(Membership.subject), window)


async def count_members(session: AsyncSession, project_id: str) -> int:
    """How many members a project has."""
    query = select(func.count()).select_from(Membership).where(Membership.project_id == project_id)
    return (await session.execute(query)).scalar_one()


async def found(database: Database, organization: str, projects: Sequence[str], admin: str | None) -> Sequence[Project]:
    """Make sure of an organization and its projects, which `admin`, if given, administers. Harmless if done before."""
    async with database.transaction() as tx:
        await tx.alone(Lock.TENANCY)
        owner = await _organization_named(tx, organization)
        made = [await _project_named(tx, owner, name) for name in projects]
        for project in made:
            if admin is not None and await tx.session.get(Membership, (project.id, admin)) is None:
                tx.session.add(Membership(project_id=project.id, subject=admin, role=ProjectRole.ADMIN))
        return made


async def set_member(database: Database, project_name: str, subject: str, role: ProjectRole) -> Project:
    """Give somebody a role in the project of that name. Raises NotFound."""
    async with database.transaction() as tx:
        await tx.alone(Lock.TENANCY)
        query = select(Project).where(Project.name == project_name).order_by(col(Project.created_at)).limit(1)
        project = (await tx.session.execute(query)).scalar_one_or_none()
        if project is None:
            raise NotFound(f"There is no project {project_name!r}.", hint="`images up` makes alpha and beta.")
        await tx.session.merge(Membership(project_id=project.id, subject=subject, role=role))
        return project


async def _organization_named(tx: Transaction, name: str) -> Organization:
    query = select(Organization).where(Organization.name == name)
    organization = (await tx.session.execute(query)).scalar_one_or_none()
    if organization is None:
        organization = Organization(name=name)
        tx.session.add(organization)
        await tx.session.flush()
    return organization


async def _project_named(tx: Transaction, organization: Organization, name: str) -> Project:
    query = select(Project).where(Project.organization_id == organization.id, Project.name == name)
    project = (await tx.session.execute(query)).scalar_one_or_none()
    if project is None:
        project = Project(organization_id=organization.id, name=name)
        tx.session.add(project)
        await tx.session.flush()
    return project
