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
    """List the projects that you may see, and what you are in them."""
    with command(as_json=as_json) as output:
        found = run(_projects(options.connection_of(connection)))
        if as_json:
            output.json(found)
        elif found:
            rows = [(one.name, one.organization.name, one.viewer_role or "-", one.id) for one in found]
            output.table(("PROJECT", "ORGANIZATION", "YOU ARE", "ID"), rows)
        else:
            output.note("You belong to no project.")


def members(
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """List who belongs to a project. Owners of its organization administer it without being members."""
    with command(as_json=as_json) as output:
        found = run(_members(options.connection_of(connection, project)))
        if as_json:
            output.json(found)
        elif found:
            output.table(("SUBJECT", "ROLE"), [(one.subject, one.role) for one in found])
        else:
            output.note("Nobody belongs to the project.")


def member(
    subject: Annotated[str, typer.Argument(help="Who it is: the `sub` of their token.", show_default=False)],
    role: Annotated[
        ProjectRole | None,
        typer.Argument(parser=options.word_of(ProjectRole), help="What they may do.", show_default=False),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take them out of the project.")] = False,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Give somebody a role in a project which you administer, or take them out of it."""
    with command(as_json=as_json) as output:
        if (role is not None) == remove:
            raise Misconfigured("Say either a role or --remove.", hint="Roles are reader, member and admin.")
        where = run(_appointed(options.connection_of(connection, project), subject, role))
        if as_json:
            output.json({"subject": subject, "role": role, "project": where})
        else:
            output.line(f"{subject} is {role or 'no member'} of {where.name}" + ("" if role else " any more"))


async def _projects(connection: Connection) -> list[MyProjectsViewerProjectsNodes]:
    hidden = NoAnswer("The gateway does not tell which projects you belong to.")
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
