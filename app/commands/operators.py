"""The operators' commands of `images` that need all of it, and the list of all commands."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.adapters.chosen import messaging
from app.client.commands.all import add_user_commands
from app.commands import connection_file
from app.commands.data_folder import locked_data_folder, make_folders
from app.commands.doctor import Finding, findings
from app.commands.fsck import add_fsck_command
from app.commands.metrics_port import metrics_port
from app.commands.options import FOR_OPERATORS, Data
from app.commands.organizations import add_organization_commands, create_projects
from app.commands.serving import address_of, listen, serve
from app.commands.starting import migrate_all, prepare, settings_from
from app.commands.tokens import ADMIN, ADMIN_NAME, add_token_commands, issue_token, sign_in_address
from app.commands.work import add_work_commands
from app.graphql.schema import sdl
from app.main import create_app
from app.models import Project
from app.settings import Settings
from workers.errors import QemuError
from workers.jobs.converters import owner_of
from workers.limits import Limits
from workers.main import Workers
from workers.qemu.confinement import check_confinement

ORGANIZATION = "demo"
PROJECTS = ("alpha", "beta")

cli = typer.Typer(
    name="images",
    help="An image catalogue for a cloud: the gateway, its workers, and a client for both people and pipelines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Host = Annotated[str | None, typer.Option(help="Address to listen on [IMAGES_HOST].")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one [IMAGES_PORT].")]


@cli.command(rich_help_panel=FOR_OPERATORS)
def up(data: Data = None, host: Host = None, port: Port = None) -> None:
    """Run everything in this process: database, object store, API and workers."""
    settings = settings_from(data=data, host=host, port=port)
    make_folders(settings, always=True)
    with locked_data_folder(settings):
        migrate_all(settings, data_folder=True)
        projects = create_projects(settings, ORGANIZATION, PROJECTS, ADMIN, ADMIN)
        bound = listen(settings.host, settings.port)
        opened = _connection_file(settings, address_of(bound), projects)
        with metrics_port(settings), messaging(settings) as channels, opened as ready:
            app, endpoint = create_app(settings, channels)
            with Workers(settings, channels.broker, channels.wakeups, channels.announce, channels.queue):
                serve(app, endpoint, bound, settings, ready)


@contextmanager
def _connection_file(settings: Settings, url: str, projects: Sequence[Project]) -> Iterator[Callable[[], None]]:
    """Keep connection.json up to date during the block. Yields what to call when the gateway is ready."""
    path = settings.data / connection_file.NAME
    if settings.jwt_issuer is not None:
        connection = connection_file.contents(url, None, projects)
        yield lambda: _announce(path, connection, None)
        return

    def new_token() -> str:
        return issue_token(settings, ADMIN, name=ADMIN_NAME, valid=connection_file.TOKEN_VALIDITY)

    connection = connection_file.contents(url, new_token(), projects)
    # Only on a terminal: elsewhere, output is kept in logs.
    browser = settings.public_url or url
    sign_in = sign_in_address(settings, browser, ADMIN, name=ADMIN_NAME) if sys.stdout.isatty() else None
    with connection_file.renewed(path, connection, new_token):
        yield lambda: _announce(path, connection, sign_in)


def _announce(path: Path, connection: Mapping[str, Any], sign_in: str | None) -> None:
    connection_file.write(path, connection)
    _print_ready(path, connection, sign_in)


@cli.command("serve", rich_help_panel=FOR_OPERATORS)
def serve_api(data: Data = None, host: Host = None, port: Port = None) -> None:
    """Run only the API; `images work` runs the conversions."""
    settings = settings_from(data=data, host=host, port=port)
    prepare(settings)
    bound = listen(settings.host, settings.port)
    with metrics_port(settings), messaging(settings, works=False) as channels:
        app, endpoint = create_app(settings, channels)
        listening = f"listening on {address_of(bound)}"
        serve(app, endpoint, bound, settings, ready=lambda: print(listening, flush=True))  # noqa: T201


@cli.command(rich_help_panel=FOR_OPERATORS)
def schema() -> None:
    """Print the GraphQL schema."""
    typer.echo(sdl(), nl=False)


@cli.command(rich_help_panel=FOR_OPERATORS)
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
    add_organization_commands(cli)
    add_token_commands(cli)
    add_work_commands(cli)
    add_fsck_command(cli, owner_of)
    add_user_commands(cli)
    return cli


def _print_ready(path: Path, connection: Mapping[str, Any], sign_in: str | None) -> None:
    """Print that the gateway is ready: on a terminal with the address to open, elsewhere without any secret."""
    if not sys.stdout.isatty():
        hint = "" if connection["token"] is None else "; `images signin` prints a sign-in address for GraphiQL"
        print(f"listening on {connection['url']}; address and token are in {path}{hint}", flush=True)  # noqa: T201
        return
    console = Console(highlight=False)
    console.print(f"\n[bold]GraphiQL[/bold]  {sign_in or connection['graphql']}", soft_wrap=True)
    if sign_in is not None:
        console.print(f"          signs one browser in as {ADMIN}; `images signin` prints another address")
    for project in connection["projects"]:
        console.print(f"[bold]project[/bold]   {project['name']}  {project['id']}")
    console.print(f"\nFor the CLI:  export IMAGES_CONNECTION={path}\n", soft_wrap=True)
