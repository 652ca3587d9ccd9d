"""The commands that serve the API: alone, or with everything else in one process."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console

from app.adapters.chosen import Messaging, messaging
from app.commands import connection_file
from app.commands.data_folder import locked_data_folder, make_folders
from app.commands.metrics_port import metrics_port
from app.commands.options import FOR_OPERATORS, Data
from app.commands.organizations import create_projects
from app.commands.serving import address_of, listen, serve
from app.commands.starting import migrate_all, prepare, settings_from
from app.commands.tokens import ADMIN, ADMIN_NAME, issue_token, sign_in_address
from app.errors import HostForgotten
from app.main import create_app
from app.models import Project
from app.settings import Settings
from workers.main import Workers

ORGANIZATION = "demo"
PROJECTS = ("alpha", "beta")

log = structlog.get_logger()

Host = Annotated[str | None, typer.Option(help="Address to listen on [IMAGES_HOST].")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one [IMAGES_PORT].")]


def add_api_commands(cli: typer.Typer) -> None:
    """Add `up` and `serve` to the commands."""
    cli.command("up", rich_help_panel=FOR_OPERATORS)(up)
    cli.command("serve", rich_help_panel=FOR_OPERATORS)(serve_api)


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
            with ExitStack() as stack:
                stack.enter_context(
                    Workers(settings, channels.broker, channels.wakeups, channels.announce, channels.queue)
                )
                if settings.servers != "off":
                    _run_servers(settings, channels, stack)
                serve(app, endpoint, bound, settings, ready)


def _run_servers(settings: Settings, channels: Messaging, stack: ExitStack) -> None:
    """Run servers until the end of `stack`, if this machine can; otherwise requests for servers are rejected."""
    # Loaded only here: other commands and machines do without.
    from workers.hosts import HostWorkers, this_host
    from workers.hypervisor.port import HypervisorUnavailable

    try:
        host = this_host(settings)
    except HypervisorUnavailable as error:
        log.info("host.unavailable", reason=str(error), hint="images doctor")
        return
    try:
        stack.enter_context(HostWorkers(settings, host, channels.bells, channels.wakeups, channels.announce))
    except HostForgotten as error:
        log.warning("host.forgotten", reason=str(error))


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


def serve_api(data: Data = None, host: Host = None, port: Port = None) -> None:
    """Run only the API; `images work` runs the conversions."""
    settings = settings_from(data=data, host=host, port=port)
    prepare(settings)
    bound = listen(settings.host, settings.port)
    with metrics_port(settings), messaging(settings, works=False) as channels:
        app, endpoint = create_app(settings, channels)
        listening = f"listening on {address_of(bound)}"
        serve(app, endpoint, bound, settings, ready=lambda: print(listening, flush=True))  # noqa: T201


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
