"""The operators' commands for tokens of the embedded mode: issue, revoke, sign a browser in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated

import anyio
import typer

from app.adapters.tokens import SecretTokens
from app.catalog import members
from app.catalog.people import revocations, sign_in
from app.commands import connection_file
from app.commands.options import FOR_OPERATORS, Data
from app.commands.starting import prepare, settings_from
from app.database.sessions import Database
from app.errors import SettingsError
from app.lifecycle import ProjectRole
from app.settings import Settings
from app.sizes import counted

# The admin of the projects that `images up` creates.
ADMIN, ADMIN_NAME = "demo-admin", "Demo Admin"


def add_token_commands(cli: typer.Typer) -> None:
    """Add `token` and `signin` to the commands."""
    cli.command(rich_help_panel=FOR_OPERATORS)(token)
    cli.command(rich_help_panel=FOR_OPERATORS)(signin)


def token(
    subject: Annotated[str | None, typer.Option(help="Subject of the token: its `sub`.")] = None,
    project: Annotated[str | None, typer.Option(help="Name of the project for --role.")] = None,
    role: Annotated[
        ProjectRole | None, typer.Option(help="Role that the subject gets in the project.", case_sensitive=False)
    ] = None,
    operator: Annotated[
        bool, typer.Option("--operator", help="Make the subject an operator, who may do everything.")
    ] = False,
    revoke_all: Annotated[
        str | None, typer.Option(metavar="SUBJECT", help="Revoke all tokens of SUBJECT instead of printing one.")
    ] = None,
    data: Data = None,
    days: Annotated[float, typer.Option(help="Validity in days.", min=0.0001)] = 30,
) -> None:
    """Print a token for a subject. With --project and --role, first grant the subject that role.

    With --revoke-all, revoke all tokens of a subject: every process refuses them within IMAGES_POLL_SECONDS.
    """
    if (subject is None) == (revoke_all is None):
        raise typer.BadParameter("set either --subject or --revoke-all")
    if (project is None) != (role is None):
        raise typer.BadParameter("--project and --role must be set together")
    if revoke_all is not None and (project is not None or operator):
        raise typer.BadParameter("--revoke-all can't be combined with --project, --role or --operator")
    _require_printable(subject if revoke_all is None else revoke_all)
    settings = _embedded(settings_from(data=data), "images token")
    prepare(settings)
    if revoke_all is not None:
        _revoke_all(settings, revoke_all)
    elif subject is not None:
        if project is not None and role is not None:
            anyio.run(_grant_role, settings, project, subject, role)
        typer.echo(issue_token(settings, subject, valid=timedelta(days=days), operator=operator))


def signin(
    subject: Annotated[str, typer.Option(help="Subject that is signed in: a token's `sub`.")] = ADMIN,
    operator: Annotated[bool, typer.Option("--operator", help="Sign the subject in as an operator.")] = False,
    data: Data = None,
) -> None:
    """Print a URL that signs a browser in to GraphiQL, once, within a day. It replaces any earlier one."""
    _require_printable(subject)
    settings = _embedded(settings_from(data=data), "images signin")
    prepare(settings)
    url = settings.public_url or connection_file.read_url(settings.data / connection_file.NAME)
    if url is None:
        raise SettingsError("no `images up` has run on this folder; set IMAGES_PUBLIC_URL to the gateway's URL")
    name = ADMIN_NAME if subject == ADMIN else None
    typer.echo(sign_in_address(settings, url, subject, name=name, operator=operator))


def issue_token(
    settings: Settings, subject: str, *, valid: timedelta, name: str | None = None, operator: bool = False
) -> str:
    """A token that no earlier revocation covers, even if clocks differ. Blocks. Raises DatabaseUnavailable."""
    stamp = anyio.run(_newest_revocation, settings, subject)
    tokens = SecretTokens(settings.secret_bytes)
    return tokens.issue(subject, name=name, valid=valid, operator=operator, issued_after=stamp)


def sign_in_address(
    settings: Settings, url: str, subject: str, *, name: str | None = None, operator: bool = False
) -> str:
    """The URL of GraphiQL at `url`, with a one-time code for `subject` in it. Blocks."""
    code = anyio.run(_new_code, settings, subject, name, operator)
    return f"{url.rstrip('/')}/graphql#code={code}"


def _embedded(settings: Settings, command: str) -> Settings:
    if settings.jwt_issuer is not None:
        raise SettingsError(f"tokens come from IMAGES_JWT_ISSUER; `{command}` works only in the embedded mode")
    return settings


def _require_printable(subject: str | None) -> None:
    if not subject or not subject.isprintable():
        raise typer.BadParameter(
            "the subject is the `sub` of a token; it must not be empty or contain control characters"
        )


def _revoke_all(settings: Settings, subject: str) -> None:
    anyio.run(_revoke, settings, subject)
    delay = counted(settings.poll_seconds, "second")
    typer.echo(f"all tokens of {subject} are revoked; every process refuses them within {delay}")
    if subject == ADMIN:
        typer.echo("restart `images up` to issue a new one to the command line on its machine")


async def _newest_revocation(settings: Settings, subject: str) -> int:
    async with _opened(settings) as database, database.read() as session:
        return await revocations.newest_revocation(session, subject)


async def _new_code(settings: Settings, subject: str, name: str | None, operator: bool) -> str:
    async with _opened(settings) as database:
        return await sign_in.new_code(database, subject, name=name, operator=operator)


async def _revoke(settings: Settings, subject: str) -> None:
    async with _opened(settings) as database:
        await revocations.revoke_tokens(database, subject)


async def _grant_role(settings: Settings, project: str, subject: str, role: ProjectRole) -> None:
    async with _opened(settings) as database:
        await members.grant_role(database, project, subject, role)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings.database_address)
    try:
        yield database
    finally:
        await database.close()
