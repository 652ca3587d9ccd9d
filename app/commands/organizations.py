"""The operators' commands that set up a gateway: tables and bucket, organizations, projects and their owners."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, TypeVar

import anyio
import typer

from app.adapters.chosen import messaging
from app.catalog import members
from app.catalog.feed import epochs
from app.commands.options import FOR_OPERATORS, Data
from app.commands.starting import migrate_all, prepare, settings_from
from app.database.sessions import Database
from app.models import Project
from app.settings import Settings

T = TypeVar("T")


def add_organization_commands(cli: typer.Typer) -> None:
    """Add `migrate`, `create-organization` and `owner` to the commands, and the former name `found`."""
    for command in (migrate, create_organization, owner):
        cli.command(rich_help_panel=FOR_OPERATORS)(command)
    cli.command("found", hidden=True)(create_organization)


def migrate(
    data: Data = None,
    restored: Annotated[
        bool,
        typer.Option("--restored", help="Make all watchers resync, after the database was restored from a backup."),
    ] = False,
) -> None:
    """Migrate the database to this version, and create the bucket if there is none."""
    settings = settings_from(data=data)
    for sentence in migrate_all(settings):
        typer.echo(sentence)
    typer.echo("the database is up to date")
    if restored:
        _begin_epoch(settings)
        typer.echo("the feed has a new epoch: cursors from before the restore require a resync")


def create_organization(
    context: typer.Context,
    organization: Annotated[str, typer.Option(help="Name of the organization.")],
    project: Annotated[list[str], typer.Option(help="Name of a project; can be repeated.")],
    admin: Annotated[str | None, typer.Option(help="The projects' admin: a token's `sub`.")] = None,
    owner: Annotated[str | None, typer.Option(help="The organization's owner: a token's `sub`.")] = None,
    data: Data = None,
) -> None:
    """Create an organization and its projects, and print the projects' ids. Existing ones are left unchanged.

    An owner administers every project of the organization, including later ones, and sets their limits.
    """
    if context.info_name == "found":
        typer.echo("`images found` is deprecated; use `images create-organization`.", err=True)
    settings = settings_from(data=data)
    prepare(settings)
    for made in create_projects(settings, organization, project, admin, owner):
        typer.echo(f"{made.id}  {made.name}")


def owner(
    organization: Annotated[str, typer.Option(help="Name of the organization.")],
    subject: Annotated[str, typer.Option(help="The owner: a token's `sub`.")],
    remove: Annotated[bool, typer.Option("--remove", help="Remove the owner instead.")] = False,
    data: Data = None,
) -> None:
    """Add an owner to an organization, who administers all its projects and sets their limits."""
    settings = settings_from(data=data)
    prepare(settings)
    _in_database(settings, lambda database: members.set_owner(database, organization, subject, owns=not remove))
    typer.echo(f"{subject} {'no longer owns' if remove else 'owns'} {organization}")


def create_projects(
    settings: Settings, organization: str, projects: Sequence[str], admin: str | None, owner: str | None
) -> Sequence[Project]:
    """Create an organization and its projects, unless they exist. Blocks. Raises DatabaseUnavailable."""
    return _in_database(
        settings, lambda database: members.create_organization(database, organization, projects, admin, owner)
    )


def _begin_epoch(settings: Settings) -> None:
    _in_database(settings, epochs.renew)
    with messaging(settings, works=False) as channels:
        channels.wakeups.feed_grew()


def _in_database(settings: Settings, act: Callable[[Database], Awaitable[T]]) -> T:
    async def done() -> T:
        database = Database(settings.database_address)
        try:
            return await act(database)
        finally:
            await database.close()

    return anyio.run(done)
