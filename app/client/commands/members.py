"""`images projects`, `images members`, `images member`"""

from typing import Annotated

import typer

from app.client.api.catalogue import find_project
from app.client.api.connection import Connection
from app.client.api.gateway import present
from app.client.api.paging import Page, read_all
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.errors import Misconfigured, NoAnswer, NotFound
from app.client.generated.enums import ProjectRole
from app.client.generated.fragments import ProjectFields
from app.client.generated.input_types import RemoveProjectMemberInput, SetProjectMemberInput
from app.client.generated.members import MembersProjectMembersNodes
from app.client.generated.my_projects import MyProjectsViewerProjectsNodes


def projects(connection: options.ConnectionFile = None, as_json: options.AsJson = False) -> None:
    """List the projects that you can see, and your role in each."""
    with command(as_json=as_json) as output:
        found = run(_projects(options.connection_of(connection)))
        if as_json:
            output.json(found)
        elif found:
            rows = [(one.name, one.organization.name, one.viewer_role or "-", one.id) for one in found]
            output.table(("PROJECT", "ORGANIZATION", "YOU ARE", "ID"), rows)
        else:
            output.note("You don't belong to any project.")


def members(
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """List the members of a project. Owners of its organization administer it without being members."""
    with command(as_json=as_json) as output:
        found = run(_members(options.connection_of(connection, project)))
        if as_json:
            output.json(found)
        elif found:
            output.table(("SUBJECT", "ROLE"), [(one.subject, one.role) for one in found])
        else:
            output.note("The project has no members.")


def member(
    subject: Annotated[str, typer.Argument(help="The member: the `sub` claim of their token.", show_default=False)],
    role: Annotated[
        ProjectRole | None,
        typer.Argument(parser=options.word_of(ProjectRole), help="The member's role.", show_default=False),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the member from the project.")] = False,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Set a member's role in a project that you administer, or remove the member."""
    with command(as_json=as_json) as output:
        if (role is not None) == remove:
            hint = "Use reader, member, admin or --remove."
            raise Misconfigured("Either a role or --remove is required, not both.", hint=hint)
        where = run(_appointed(options.connection_of(connection, project), subject, role))
        if as_json:
            output.json({"subject": subject, "role": role, "project": where})
        else:
            output.line(f"{subject} is {role or 'no longer a member'} of {where.name}")


async def _projects(connection: Connection) -> list[MyProjectsViewerProjectsNodes]:
    hidden = NoAnswer("The gateway does not return your projects.")
    async with session(connection) as at:

        async def page(after: str | None) -> Page[MyProjectsViewerProjectsNodes] | None:
            viewer = (await at.api.my_projects(after)).viewer
            return viewer.projects if viewer else None

        return [one async for one in read_all(page, hidden)]


async def _members(connection: Connection) -> list[MembersProjectMembersNodes]:
    gone = NotFound("There is no such project.")
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)

        async def page(after: str | None) -> Page[MembersProjectMembersNodes] | None:
            project = (await at.api.members(project_id, after)).project
            return project.members if project else None

        return [one async for one in read_all(page, gone)]


async def _appointed(connection: Connection, subject: str, role: ProjectRole | None) -> ProjectFields:
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        if role is None:
            gone = RemoveProjectMemberInput(project_id=project_id, subject=subject)
            return present(present((await at.api.remove_member(gone)).remove_project_member).project)
        given = SetProjectMemberInput(project_id=project_id, subject=subject, role=role)
        return present(present((await at.api.set_member(given)).set_project_member).project)
