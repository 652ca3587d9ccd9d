"""The operators' commands of `images`. The only module of app that may import workers."""

import fcntl
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from alembic.util import CommandError
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from app.adapters.dramatiq_queue import DramatiqQueue, local_broker
from app.adapters.local_wakeups import LocalWakeups
from app.adapters.no_queue import NoQueue
from app.adapters.tokens import SecretTokens
from app.catalog import tenancy
from app.client.commands import add_user_commands
from app.database import Database
from app.doctor import findings
from app.errors import SettingsError
from app.graphql.schema import sdl
from app.lifecycle import ProjectRole
from app.logs import configure_logs
from app.main import Demo, announcer, create_app
from app.migrations import migrate as migrate_database
from app.models import Project
from app.serving import address_of, listen, serve
from app.settings import Settings, load_settings
from workers.main import Workers

ORGANIZATION = "demo"
PROJECTS = ("alpha", "beta")
ADMIN = "demo-admin"

cli = typer.Typer(
    name="images",
    help="An image catalogue for a cloud: the gateway, its workers, and a client for both people and pipelines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Data = Annotated[Path | None, typer.Option(help="Folder of database, objects and secret [IMAGES_DATA].")]
Host = Annotated[str | None, typer.Option(help="Address to listen on [IMAGES_HOST].")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one [IMAGES_PORT].")]
_OPERATORS = "For operators"


@cli.command(rich_help_panel=_OPERATORS)
def up(data: Data = None, host: Host = None, port: Port = None) -> None:
    """Run all of it in this process: database, object store, API and workers."""
    settings = _prepared(data, host, port)
    projects = anyio.run(_found_demo, settings)
    bound = listen(settings.host, settings.port)
    broker, wakeups = local_broker(), LocalWakeups()
    queue = DramatiqQueue(broker)
    token = SecretTokens(settings.secret_bytes).issue(ADMIN, name="Demo Admin", valid=timedelta(days=365))
    embedded = settings.jwt_issuer is None
    demo = Demo(token, projects[0].id) if embedded else None
    app, endpoint = create_app(settings, queue, wakeups, demo)
    connection = _connection(address_of(bound), token if embedded else None, projects)
    with Workers(settings, broker, wakeups, announcer(queue, wakeups)):
        serve(app, endpoint, bound, ready=lambda: _tell(connection, settings.data))


@cli.command("serve", rich_help_panel=_OPERATORS)
def serve_api(data: Data = None, host: Host = None, port: Port = None) -> None:
    """Run the API alone; `images work` beside it does the conversions."""
    settings = _prepared(data, host, port)
    bound = listen(settings.host, settings.port)
    app, endpoint = create_app(settings, NoQueue(), LocalWakeups())
    serve(app, endpoint, bound, ready=lambda: print(f"listening on {address_of(bound)}", flush=True))  # noqa: T201


@cli.command(rich_help_panel=_OPERATORS)
def work(data: Data = None) -> None:
    """Run the workers alone, until SIGTERM or SIGINT."""
    settings = _prepared(data, None, None)
    broker, wakeups = local_broker(), LocalWakeups()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with Workers(settings, broker, wakeups, announcer(DramatiqQueue(broker), wakeups)):
        stopped.wait()


@cli.command(rich_help_panel=_OPERATORS)
def migrate(data: Data = None) -> None:
    """Bring the database to the state that this version needs."""
    _migrate(_settings(data=data))
    typer.echo("the database is up to date")


@cli.command(rich_help_panel=_OPERATORS)
def token(
    subject: Annotated[str, typer.Option(help="Who the token is for: its `sub`.")],
    project: Annotated[str, typer.Option(help="Name of the project.")],
    role: Annotated[ProjectRole, typer.Option(help="What they may do there.", case_sensitive=False)],
    data: Data = None,
    days: Annotated[float, typer.Option(help="How long it is good for.", min=0.0001)] = 30,
) -> None:
    """Give somebody a role in a project, and print a token for them."""
    settings = _settings(data=data)
    if settings.jwt_issuer is not None:
        raise SettingsError("tokens come from IMAGES_JWT_ISSUER; `images token` is for the embedded mode")
    _migrate(settings)
    anyio.run(_set_member, settings, project, subject, role)
    typer.echo(SecretTokens(settings.secret_bytes).issue(subject, valid=timedelta(days=days)))


@cli.command(rich_help_panel=_OPERATORS)
def schema() -> None:
    """Print the GraphQL schema."""
    typer.echo(sdl(), nl=False)


@cli.command(rich_help_panel=_OPERATORS)
def doctor(
    data: Data = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is missing on this machine and how to install it. Ends with 1 when something is."""
    found = findings(_settings(data=data))
    if as_json:
        typer.echo(json.dumps([finding.as_json() for finding in found], indent=2))
    else:
        table = Table("", "what", "state", "what to do")
        for finding in found:
            table.add_row("ok" if finding.ok else "!!", finding.name, finding.state, finding.remedy or "")
        Console().print(table)
    if any(not finding.ok and finding.needed for finding in found):
        raise typer.Exit(1)


def command_line() -> typer.Typer:
    """All commands: the operators' own, and the users'."""
    add_user_commands(cli)
    return cli


def _settings(**given: Any) -> Settings:
    configure_logs()
    return load_settings(**given)


def _prepared(data: Path | None, host: str | None, port: int | None) -> Settings:
    """The settings of a process that serves or works, on a database that is up to date."""
    settings = _settings(data=data, host=host, port=port)
    _migrate(settings)
    return settings


def _migrate(settings: Settings) -> None:
    """Make the data folder and the tables, as far as they are not there. Raises SettingsError."""
    data = settings.data.absolute()
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{data} can't be the data folder: {error.strerror}; choose another by --data") from error
    if not os.access(data, os.W_OK | os.X_OK):
        raise SettingsError(f"{data} can't be the data folder: it is not writable; choose another by --data")
    try:
        with _alone_in(data):
            migrate_database(settings.database_address)
    except (SQLAlchemyError, CommandError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"the database in {data} can't be brought up to date: {reason}") from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that start on this folder waiting, so that one of them makes the tables."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


async def _with_database(settings: Settings, act: Callable[[Database], Any]) -> Any:
    database = Database(settings.database_address)
    try:
        return await act(database)
    finally:
        await database.close()


async def _found_demo(settings: Settings) -> list[Project]:
    made = await _with_database(settings, lambda db: tenancy.found(db, ORGANIZATION, PROJECTS, ADMIN))
    return list(made)


async def _set_member(settings: Settings, project: str, subject: str, role: ProjectRole) -> None:
    await _with_database(settings, lambda db: tenancy.set_member(db, project, subject, role))


def _connection(url: str, token: str | None, projects: list[Project]) -> dict[str, Any]:
    return {
        "url": url,
        "graphql": f"{url}/graphql",
        "token": token,
        "projects": [{"id": project.id, "name": project.name} for project in projects],
    }


def _tell(connection: dict[str, Any], data: Path) -> None:
    """Write connection.json, for its owner's eyes only, and show the same to people."""
    path = data / "connection.json"
    draft = path.with_name(f".connection.{os.getpid()}.json")  # another process may be at it, too
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        json.dump(connection, file, indent=2)
    draft.rename(path)
    if sys.stdout.isatty():
        console = Console()
        console.print(f"\n[bold]GraphiQL[/bold]  {connection['graphql']}")
        for project in connection["projects"]:
            console.print(f"[bold]project[/bold]   {project['name']}  {project['id']}")
        console.print(f"[bold]token[/bold]     {connection['token']}", soft_wrap=True)
        console.print(f"\nFor the CLI:  export IMAGES_CONNECTION={path}\n", soft_wrap=True)
    else:
        print(f"listening on {connection['url']}; address and token are in {path}", flush=True)  # noqa: T201
