"""Organizations, projects and members, and what a caller may see and do there.

A caller's role in a project is that of their membership. Owners of an organization are admins of all its projects,
and operators are admins of every project.
"""

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import sqlalchemy
from sqlalchemy import BindParameter, ColumnElement, Select, Subquery, bindparam, exists, func, or_, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.selectable import ForUpdateArg
from sqlmodel import col, select

from app.catalog.pages import Page, Window, read_page
from app.database.postgres import on_postgresql
from app.errors import Forbidden, NotFound
from app.lifecycle import ProjectRole
from app.models import TABLES, Membership, Organization, OrganizationOwner, Project
from app.viewer import Viewer, includes

_ID = re.compile(r"[a-z]{3}_[0-9a-z]{26}")
# Building a statement takes longer than running it, and leaves cycles to the garbage collector. What nearly every
# request needs is built once, with parameters. Conditions within other statements are built once per project or caller,
# and kept for this many of them.
BUILT_CONDITIONS = 256
# Keeps others from changing the row, but not from writing rows that refer to it. SQLite has only one writer anyway.
LOCKED = ForUpdateArg(key_share=True)
_NEEDS = {
    ProjectRole.READER: "see this project",
    ProjectRole.MEMBER: "change images, servers and volumes",
    ProjectRole.ADMIN: "administer it",
}


def is_id(text: str) -> bool:
    """Whether a text has the form of an id. Databases don't accept every text, so only ids are used in queries."""
    return _ID.fullmatch(text) is not None


_MEMBER = TABLES.tables["membership"].c
_OWNER = TABLES.tables["organization_owner"].c
_PROJECT = TABLES.tables["project"].c


def roles_of(viewer: Viewer) -> Subquery:
    """The projects that the viewer may see, one row each, with their role: `project_id` and `role`."""
    return selected_roles(viewer.subject, operator=viewer.operator)


def selected_roles(subject: str | BindParameter[str], *, operator: bool) -> Subquery:
    """As `roles_of`, for the subject of a viewer, or a parameter that stands for it."""
    admin = sqlalchemy.literal(ProjectRole.ADMIN, _MEMBER.role.type).label("role")
    if operator:
        return sqlalchemy.select(_PROJECT.id.label("project_id"), admin).subquery("roles")
    owned = (
        sqlalchemy.select(_PROJECT.id.label("project_id"), admin)
        .join(OrganizationOwner, _OWNER.organization_id == _PROJECT.organization_id)
        .where(_OWNER.subject == subject)
    )
    member = sqlalchemy.select(_MEMBER.project_id, _MEMBER.role).where(
        _MEMBER.subject == subject, ~_owns(subject, _MEMBER.project_id)
    )
    return sqlalchemy.union_all(owned, member).subquery("roles")


def _owns(subject: str | BindParameter[str], project_id: object) -> ColumnElement[bool]:
    owner, project = OrganizationOwner, Project
    return exists().where(
        col(project.id) == project_id,
        col(owner.organization_id) == col(project.organization_id),
        col(owner.subject) == subject,
    )


def may_see(viewer: Viewer, project_id: str) -> ColumnElement[bool]:
    """The condition that the viewer may see a project."""
    return true() if viewer.operator else _may_see(viewer.subject, project_id)


@lru_cache(BUILT_CONDITIONS)
def _may_see(subject: str, project_id: str) -> ColumnElement[bool]:
    member = exists().where(_MEMBER.project_id == project_id, _MEMBER.subject == subject)
    return or_(member, _owns(subject, project_id))


async def role_in(session: AsyncSession, viewer: Viewer, project_id: str) -> ProjectRole | None:
    """The viewer's role in a project; None if they have none."""
    return (await roles_in(session, viewer, [project_id])).get(project_id)


async def governs(session: AsyncSession, viewer: Viewer, organization_id: str) -> bool:
    """Whether the viewer owns an organization, or is an operator."""
    return viewer.operator or await is_owner(session, viewer, organization_id)


async def is_owner(session: AsyncSession, viewer: Viewer, organization_id: str) -> bool:
    """Whether the viewer owns an organization."""
    return await session.get(OrganizationOwner, (organization_id, viewer.subject)) is not None


async def project_for(
    session: AsyncSession,
    viewer: Viewer,
    project_id: str,
    needed: ProjectRole = ProjectRole.READER,
    *,
    field: Sequence[str] = ("projectId",),
    lock: bool = False,
) -> Project:
    """A project in which the viewer has the `needed` role.

    With `lock`, no other transaction creates in it until this one ends. Raises NotFound when the viewer may not see it,
    Forbidden when their role is not sufficient.
    """
    if not is_id(project_id):
        raise no_project(field)
    query = _project_and_role(operator=viewer.operator, lock=lock)
    found = (await session.execute(query, {"subject": viewer.subject, "id": project_id})).one_or_none()
    if found is None:
        raise no_project(field)
    project: Project = found[0]
    role: ProjectRole | None = found[1]
    if lock and on_postgresql(session):
        # PostgreSQL waits for the row, but then returns the role from before the wait.
        role = await role_in(session, viewer, project_id)
    if role is None:
        raise no_project(field)
    require_role(role, needed, field)
    return project


@cache
def _project_and_role(*, operator: bool, lock: bool) -> Select[Any]:
    """Select the project `id`, if the viewer `subject` may see it, and their role."""
    roles = selected_roles(bindparam("subject"), operator=operator)
    query = (
        sqlalchemy.select(Project, roles.c.role)
        .join(roles, roles.c.project_id == _PROJECT.id)
        .where(_PROJECT.id == bindparam("id"), roles.c.project_id == bindparam("id"))
    )
    return query.with_for_update(of=Project, key_share=True) if lock else query


async def reader_role(
    session: AsyncSession, viewer: Viewer, project_id: str, *, field: Sequence[str] = ("projectId",)
) -> ProjectRole:
    """The viewer's role in a project. Raises NotFound when they may not see it."""
    role = await role_in(session, viewer, project_id)
    if role is None:
        raise no_project(field)
    return role


def no_project(field: Sequence[str] = ("projectId",)) -> NotFound:
    """The error for a project that does not exist, and for one that the caller may not see."""
    return NotFound("There is no such project.", field=field, hint="List your projects with viewer { projects }.")


def require_role(role: ProjectRole, needed: ProjectRole, field: Sequence[str], purpose: str | None = None) -> None:
    """Raises Forbidden when a role does not include the rights of the `needed` one, which `purpose` requires."""
    if not includes(role, needed):
        raise Forbidden(
            f"You need the role {needed} in this project to {purpose or _NEEDS[needed]}; yours is {role}.",
            field=field,
            hint="Ask an admin of the project for the role.",
        )


async def visible_projects(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, Project]:
    """The projects that the viewer may see, by id."""
    roles = roles_of(viewer)
    query = select(Project).join(roles, roles.c.project_id == _PROJECT.id).where(col(Project.id).in_(ids))
    return {project.id: project for project in (await session.execute(query)).scalars()}


async def roles_in(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, ProjectRole]:
    """The viewer's roles in the projects that they may see, by id."""
    found = await session.execute(
        _roles_in(operator=viewer.operator), {"subject": viewer.subject, "ids": [*filter(is_id, ids)]}
    )
    return {project_id: ProjectRole(role) for project_id, role in found.all()}


@cache
def _roles_in(*, operator: bool) -> Select[Any]:
    """Select the projects `ids` that the viewer `subject` may see, with their roles."""
    roles = selected_roles(bindparam("subject"), operator=operator)
    return sqlalchemy.select(roles.c.project_id, roles.c.role).where(
        roles.c.project_id.in_(bindparam("ids", expanding=True))
    )


async def roles_held(session: AsyncSession, viewer: Viewer, project_id: str | None = None) -> set[ProjectRole]:
    """The roles that the viewer has in any project, or only in one, if given. Empty if they belong to none."""
    roles = roles_of(viewer)
    query = sqlalchemy.select(roles.c.role).distinct()
    if project_id is not None:
        query = query.where(roles.c.project_id == project_id)
    return {ProjectRole(role) for role in (await session.execute(query)).scalars()}


async def first_project_of(session: AsyncSession, viewer: Viewer) -> str | None:
    """The oldest project that the viewer may see; None if there is none."""
    roles = roles_of(viewer)
    query = sqlalchemy.select(roles.c.project_id).order_by(roles.c.project_id).limit(1)
    return (await session.execute(query)).scalar_one_or_none()


async def visible_organizations(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, Organization]:
    """The organizations that the viewer owns or in which they may see a project, by id."""
    query = select(Organization).where(col(Organization.id).in_(ids))
    if not viewer.operator:
        owned = select(OrganizationOwner.organization_id).where(OrganizationOwner.subject == viewer.subject)
        joined = (
            select(Project.organization_id)
            .join(Membership, col(Membership.project_id) == Project.id)
            .where(Membership.subject == viewer.subject)
        )
        query = query.where(or_(col(Organization.id).in_(owned), col(Organization.id).in_(joined)))
    return {organization.id: organization for organization in (await session.execute(query)).scalars()}


async def projects_of(
    session: AsyncSession, viewer: Viewer, window: Window, *, organization_id: str | None = None
) -> Page[Project]:
    """The projects that the viewer may see, by name."""
    roles = roles_of(viewer)
    query = select(Project).join(roles, roles.c.project_id == _PROJECT.id)
    if organization_id is not None:
        query = query.where(Project.organization_id == organization_id)
    return await read_page(session, query, col(Project.name), col(Project.id), window)


async def count_projects(session: AsyncSession, viewer: Viewer, *, organization_id: str | None = None) -> int:
    """The number of projects that the viewer may see."""
    roles = roles_of(viewer)
    query = sqlalchemy.select(func.count()).select_from(roles)
    if organization_id is not None:
        query = query.join(Project, _PROJECT.id == roles.c.project_id).where(
            _PROJECT.organization_id == organization_id
        )
    count: int = (await session.execute(query)).scalar_one()
    return count


async def roles_by_subject(session: AsyncSession, ids: Sequence[str]) -> dict[str, dict[str, ProjectRole]]:
    """The roles of everyone who may see the projects, by project, then by subject. Operators are not included."""
    found: dict[str, dict[str, ProjectRole]] = {id_: {} for id_ in ids}
    members = select(Membership.project_id, Membership.subject, Membership.role).where(
        col(Membership.project_id).in_(ids)
    )
    for project_id, subject, role in (await session.execute(members)).all():
        found[project_id][subject] = ProjectRole(role)
    owners = (
        select(Project.id, OrganizationOwner.subject)
        .join(OrganizationOwner, col(OrganizationOwner.organization_id) == Project.organization_id)
        .where(col(Project.id).in_(ids))
    )
    for project_id, subject in (await session.execute(owners)).all():
        found[project_id][subject] = ProjectRole.ADMIN
    return found
