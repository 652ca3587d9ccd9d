"""Members of projects: lists, adds, changes and removes them; and creates organizations and projects."""

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog.catalogue import Catalogue, Written
from app.catalog.feed import event_log
from app.catalog.pages import Page, Window, read_page
from app.catalog.people import tenancy
from app.catalog.revisions import require_revision
from app.catalog.texts import is_text, require_text
from app.database.postgres import Lock
from app.database.sessions import Database, Transaction
from app.errors import Conflict, InvalidInput, NotFound
from app.lifecycle import ProjectRole
from app.models import Membership, Organization, OrganizationOwner, Project
from app.viewer import Viewer

_MAXIMUM_SUBJECT = 255


async def members_of(session: AsyncSession, project_id: str, window: Window) -> Page[Membership]:
    """The members of a project, by subject."""
    query = select(Membership).where(Membership.project_id == project_id)
    return await read_page(session, query, col(Membership.subject), col(Membership.subject), window)


async def count_members(session: AsyncSession, project_id: str) -> int:
    """The number of members of a project."""
    query = select(func.count()).select_from(Membership).where(Membership.project_id == project_id)
    return (await session.execute(query)).scalar_one()


async def set_member(
    catalogue: Catalogue,
    viewer: Viewer,
    project_id: str,
    subject: str,
    role: ProjectRole,
    expected_revision: int | None = None,
) -> Written[Project]:
    """Set the role of a member, or add one. Publishes nothing if the member already has the role.

    Raises NotFound, Forbidden, InvalidInput, StaleRevision, Conflict (for the last admin).
    """
    if not 1 <= len(subject) <= _MAXIMUM_SUBJECT or subject != subject.strip():
        raise InvalidInput(
            f"A subject must have 1 to {_MAXIMUM_SUBJECT} characters, without spaces around it.",
            field=("subject",),
            hint="Use the `sub` claim of the user's token.",
        )
    require_text(subject, ("subject",))

    async def change(tx: Transaction, project: Project) -> bool:
        member = await tx.session.get(Membership, (project.id, subject))
        if member is None:
            tx.session.add(Membership(project_id=project.id, subject=subject, role=role))
            return True
        if member.role == role:
            return False
        await _require_another_admin(tx.session, member)
        member.role = role
        return True

    return await _change_members(catalogue, viewer, project_id, expected_revision, change)


async def remove_member(
    catalogue: Catalogue, viewer: Viewer, project_id: str, subject: str, expected_revision: int | None = None
) -> Written[Project]:
    """Remove a member from a project. Raises NotFound, Forbidden, StaleRevision, Conflict (for the last admin)."""

    async def change(tx: Transaction, project: Project) -> bool:
        member = await tx.session.get(Membership, (project.id, subject)) if is_text(subject) else None
        if member is None:
            raise NotFound(
                "The project has no such member.", field=("subject",), hint="List the members with project { members }."
            )
        await _require_another_admin(tx.session, member)
        await tx.session.delete(member)
        return True

    return await _change_members(catalogue, viewer, project_id, expected_revision, change)


async def _change_members(
    catalogue: Catalogue,
    viewer: Viewer,
    project_id: str,
    expected_revision: int | None,
    change: Callable[[Transaction, Project], Awaitable[bool]],
) -> Written[Project]:
    """Change the members of a project with its row locked; `change` returns whether anything differs."""
    async with catalogue.database.transaction() as tx:
        project = await tenancy.project_for(tx.session, viewer, project_id, ProjectRole.ADMIN, lock=True)
        require_revision(project.revision, expected_revision, "project")
        if await change(tx, project):
            project.revision += 1
            event_log.members_changed(tx, project.id, actor=viewer.subject)
    return Written(project, tx.position)


async def _require_another_admin(session: AsyncSession, member: Membership) -> None:
    """Raises Conflict when a member is the last admin of the project."""
    if member.role != ProjectRole.ADMIN:
        return
    others = select(func.count()).where(
        col(Membership.project_id) == member.project_id,
        col(Membership.role) == ProjectRole.ADMIN,
        col(Membership.subject) != member.subject,
    )
    if not (await session.execute(others)).scalar_one():
        raise Conflict(
            f"{member.subject} is the last admin of the project.",
            field=("subject",),
            hint="Make another member an admin first.",
        )


async def _require_administered(tx: Transaction, organization: Organization, owner: str) -> None:
    """Raises Conflict when a project of the organization would be left without an owner or an admin."""
    others = select(func.count()).where(
        col(OrganizationOwner.organization_id) == organization.id, col(OrganizationOwner.subject) != owner
    )
    if (await tx.session.execute(others)).scalar_one():
        return
    admins = select(Membership).where(
        col(Membership.project_id) == col(Project.id), col(Membership.role) == ProjectRole.ADMIN
    )
    without = select(Project.name).where(Project.organization_id == organization.id, ~admins.exists())
    name = (await tx.session.execute(without.order_by(col(Project.name)).limit(1))).scalar_one_or_none()
    if name is not None:
        raise Conflict(
            f"{owner} is the last owner of {organization.name}, and its project {name} has no admin.",
            field=("subject",),
            hint="Add an admin to the project or another owner to the organization first.",
        )


# ---------------------------------------------------------------- for operators, whose commands open only the database


async def create_organization(
    database: Database, organization: str, projects: Sequence[str], admin: str | None, owner: str | None = None
) -> Sequence[Project]:
    """Create an organization and its projects. Existing ones are left unchanged. Returns the projects.

    `admin`, if given, becomes an admin of the projects, and `owner` an owner of the organization.
    """
    async with database.transaction() as tx:
        await tx.alone(Lock.TENANCY)
        made = await _organization_named(tx, organization)
        if owner is not None:
            await _set_owner(tx, made, owner, owns=True)
        founded = [await _project_named(tx, made, name) for name in projects]
        for project in founded:
            if admin is not None and await tx.session.get(Membership, (project.id, admin)) is None:
                tx.session.add(Membership(project_id=project.id, subject=admin, role=ProjectRole.ADMIN))
        return founded


async def set_owner(database: Database, organization: str, subject: str, *, owns: bool) -> Organization:
    """Add an owner to the organization of that name, or remove one. Raises NotFound, Conflict."""
    async with database.transaction() as tx:
        await tx.alone(Lock.TENANCY)
        query = select(Organization).where(Organization.name == organization)
        found = (await tx.session.execute(query)).scalar_one_or_none()
        if found is None:
            raise NotFound(
                f"There is no organization {organization!r}.", hint="Create it with `images create-organization`."
            )
        await _set_owner(tx, found, subject, owns=owns)
        return found


async def _set_owner(tx: Transaction, organization: Organization, subject: str, *, owns: bool) -> None:
    owner = await tx.session.get(OrganizationOwner, (organization.id, subject))
    if (owner is not None) == owns:
        return
    if owner is None:
        tx.session.add(OrganizationOwner(organization_id=organization.id, subject=subject))
    else:
        await _require_administered(tx, organization, subject)
        await tx.session.delete(owner)
    projects = select(Project.id).where(Project.organization_id == organization.id).order_by(col(Project.id))
    for project_id in (await tx.session.execute(projects)).scalars():
        event_log.members_changed(tx, project_id)


async def grant_role(database: Database, project_name: str, subject: str, role: ProjectRole) -> Project:
    """Set the role of a member in the project of that name, for operators.

    Raises NotFound, Conflict (for the last admin).
    """
    async with database.transaction() as tx:
        await tx.alone(Lock.TENANCY)
        query = select(Project).where(Project.name == project_name).order_by(col(Project.created_at)).limit(1)
        project = (await tx.session.execute(query.with_for_update(key_share=True))).scalar_one_or_none()
        if project is None:
            raise NotFound(
                f"There is no project {project_name!r}.", hint="Create it with `images create-organization`."
            )
        member = await tx.session.get(Membership, (project.id, subject))
        if member is None or member.role != role:
            if member is not None:
                await _require_another_admin(tx.session, member)
            await tx.session.merge(Membership(project_id=project.id, subject=subject, role=role))
            project.revision += 1
            event_log.members_changed(tx, project.id)
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
