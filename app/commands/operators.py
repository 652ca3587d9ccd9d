"""The operators' commands of `images` that need all of it, and the list of all commands."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.client.commands.all import add_user_commands
from app.commands.api import add_api_commands
from app.commands.doctor import Finding, findings
from app.commands.fsck import add_fsck_command
from app.commands.hosts import add_host_commands
from app.commands.options import FOR_OPERATORS, Data
from app.commands.organizations import add_organization_commands
from app.commands.starting import settings_from
from app.commands.tokens import add_token_commands
from app.commands.work import add_work_commands
from app.graphql.schema import sdl
from app.settings import Settings
from workers.errors import QemuError
from workers.jobs.converters import owner_of
from workers.limits import Limits
from workers.qemu.confinement import check_confinement

cli = typer.Typer(
    name="images",
    help="An image catalogue for a cloud: the gateway, its workers, and a client for both people and pipelines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def schema() -> None:
    """Print the GraphQL schema."""
    typer.echo(sdl(), nl=False)


def doctor(
    data: Data = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    conversions: Annotated[bool, typer.Option(help="Check what conversions on this machine need.")] = True,
) -> None:
    """Check what this machine has and needs, and how to get the rest. Exits with 1 if anything required is missing."""
    settings = settings_from(data=data)
    found = findings(settings)
    if conversions:
        found.append(_confinement(settings))
    if as_json:
        typer.echo(json.dumps([finding.as_json() for finding in found], indent=2))
    else:
        table = Table("", "what", "state", "what to do")
        for finding in found:
            table.add_row("ok" if finding.ok else "!!", finding.name, finding.state, finding.remedy or "")
        Console().print(table)
    if any(not finding.ok and finding.needed for finding in found):
        raise typer.Exit(1)


def _confinement(settings: Settings) -> Finding:
    """How qemu is confined: a container may have bubblewrap but not allow it to create namespaces."""
    try:
        confined = check_confinement(Limits()).bubblewrap is not None
    except (QemuError, OSError) as error:
        return Finding("confinement", False, str(error), "install what is missing above")
    state = "bubblewrap" if confined else "only resource limits: qemu shares the network and the user of its worker"
    if settings.require_confinement and not confined:
        state += "; nothing is converted here, because of IMAGES_REQUIRE_CONFINEMENT"
    remedy = None if confined else "let bubblewrap create namespaces: see docs/operating.md, What confines qemu"
    return Finding("confinement", confined, state, remedy, needed=settings.require_confinement)


def command_line() -> typer.Typer:
    """All commands: the operators' and the users'."""
    add_api_commands(cli)
    cli.command(rich_help_panel=FOR_OPERATORS)(schema)
    cli.command(rich_help_panel=FOR_OPERATORS)(doctor)
    add_organization_commands(cli)
    add_token_commands(cli)
    add_work_commands(cli)
    add_host_commands(cli)
    add_fsck_command(cli, owner_of)
    add_user_commands(cli)
    return cli
