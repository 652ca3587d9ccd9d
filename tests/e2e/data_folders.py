"""What `images create-organization` and `images token` do on a data folder, without their processes.

Those take seconds to load what this process has loaded already.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from app.catalog import members
from app.commands.tokens import issue_token
from app.database.sessions import Database
from app.lifecycle import ProjectRole
from app.settings import Settings

T = TypeVar("T")

_VALID = timedelta(days=1)


def create_organization(
    data: Path, organization: str, projects: Sequence[str], *, admin: str | None = None, owner: str | None = None
) -> list[str]:
    """An organization and its projects: the ids of the projects."""
    created = _in_database(
        data, lambda database: members.create_organization(database, organization, projects, admin, owner)
    )
    return [project.id for project in created]


def token(data: Path, subject: str, *, operator: bool = False) -> str:
    """A token for a subject."""
    return issue_token(Settings(data=data), subject, valid=_VALID, operator=operator)


def grant_admin(data: Path, project: str, subject: str) -> None:
    """Make a subject an administrator of the project of that name."""
    _in_database(data, lambda database: members.grant_role(database, project, subject, ProjectRole.ADMIN))


def _in_database(data: Path, act: Callable[[Database], Awaitable[T]]) -> T:
    async def done() -> T:
        database = Database(Settings(data=data).database_address)
        try:
            return await act(database)
        finally:
            await database.close()

    return asyncio.run(done())
