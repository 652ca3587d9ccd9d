"""`images projects`, `images members`, `images member`"""

from typing import Annotated, Any

import typer

from app.client.api import project_documents as documents
from app.client.api.catalogue import find_project
from app.client.api.connection import Connection
from app.client.api.paging import read_all
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.errors import Misconfigured, NoAnswer, NotFound


def projects(connection: options.ConnectionFile = None, as_json: options.AsJson = False) -> None:
    """List the projects that you may see, and what you are in them."""
    with command(as_json=as_json) as output:
        found = run(_projects(options.connection_of(connection)))
        if as_json:
            output.json(found)
        elif found:
            rows = [(one["name"], one["organization"]["name"], one["viewerRole"] or "-", one["id"]) for one in found]
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
            output.table(("SUBJECT", "ROLE"), [(one["subject"], one["role"]) for one in found])
        else:
            output.note("Nobody belongs to the project.")


def member(
    subject: Annotated[str, typer.Argument(help="Who it is: the `sub` of their token.", show_default=False)],
    role: Annotated[
        options.Role | None, typer.Argument(case_sensitive=False, help="What they may do.", show_default=False)
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
        as_what = role.upper() if role is not None else None
        where = run(_appointed(options.connection_of(connection, project), subject, as_what))
        if as_json:
            output.json({"subject": subject, "role": as_what, "project": where})
        else:
            output.line(f"{subject} is {as_what or 'no member'} of {where['name']}" + ("" if as_what else " any more"))


async def _projects(connection: Connection) -> list[dict[str, Any]]:
    hidden = NoAnswer("The gateway does not tell which projects you belong to.")
    async with session(connection) as at:
        return [one async for one in read_all(at.api, documents.MY_PROJECTS, ("viewer", "projects"), hidden)]


async def _members(connection: Connection) -> list[dict[str, Any]]:
    gone = NotFound("There is no such project.")
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        page = read_all(at.api, documents.MEMBERS, ("project", "members"), gone, project=project_id)
        return [one async for one in page]


async def _appointed(connection: Connection, subject: str, role: str | None) -> dict[str, Any]:
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        document = documents.SET_MEMBER if role is not None else documents.REMOVE_MEMBER
        return dict((await at.api.mutate(document, projectId=project_id, subject=subject, role=role))["project"])
