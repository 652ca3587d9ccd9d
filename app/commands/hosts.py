"""The operators' commands about hosts of servers, from any machine that reaches the database."""

import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar

import anyio
import typer

from app.adapters.chosen import messaging
from app.catalog.servers import forgetting, hosts
from app.catalog.servers.forgetting import HostLine
from app.commands.options import FOR_OPERATORS, Data
from app.commands.starting import prepare, settings_from
from app.database.sessions import Database
from app.settings import Settings
from app.sizes import counted, spelled

T = TypeVar("T")


def add_host_commands(cli: typer.Typer) -> None:
    """Add `hosts` and `forget-host` to the commands."""
    cli.command("hosts", rich_help_panel=FOR_OPERATORS)(list_hosts)
    cli.command("forget-host", rich_help_panel=FOR_OPERATORS)(forget_host)


def list_hosts(data: Data = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the hosts of servers, one per line: id, name, state, servers, and when the host last reported."""
    settings = settings_from(data=data)
    prepare(settings)
    lines = _in_database(settings, forgetting.all_hosts)
    alive_since = hosts.last_alive(settings)
    if as_json:
        typer.echo(json.dumps([_as_json(line, alive_since) for line in lines], indent=2))
        return
    for line in lines:
        host = line.host
        servers = f"{counted(line.servers, 'server')} in {spelled(host.memory)}, {host.accelerator}"
        seen = host.seen_at.isoformat(timespec="seconds")
        typer.echo(f"{host.id}  {host.name}  {_state(line, alive_since)}  {servers}  last seen {seen}")


def forget_host(
    host: Annotated[str, typer.Argument(help="Id of the host; `images hosts` lists them.")], data: Data = None
) -> None:
    """Remove a host that never returns. Its servers stay in ERROR, and can be deleted without it.

    Their disks count as lost. Make sure that no virtual machine runs there any longer: the gateway can't end it.
    """
    settings = settings_from(data=data)
    prepare(settings)
    alive_since = hosts.last_alive(settings)
    servers = _in_database(settings, lambda database: forgetting.forget(database, host, alive_since))
    typer.echo(f"{host} is removed; {counted(servers, 'server')} in ERROR remain to be deleted by their users")


def _state(line: HostLine, alive_since: datetime) -> str:
    if line.host.forgotten_at is not None:
        return "removed"
    return "alive" if line.host.seen_at >= alive_since else "silent"


def _as_json(line: HostLine, alive_since: datetime) -> dict[str, Any]:
    host = line.host
    return {
        "id": host.id,
        "name": host.name,
        "state": _state(line, alive_since),
        "servers": line.servers,
        "accelerator": host.accelerator,
        "memory": host.memory,
        "vcpus": host.vcpus,
        "seen_at": host.seen_at.isoformat(),
    }


def _in_database(settings: Settings, act: Callable[[Database], Awaitable[T]]) -> T:
    async def done() -> T:
        with messaging(settings, works=False) as channels:
            database = Database(settings.database_address, channels.announce)
            try:
                return await act(database)
            finally:
                await database.close()

    return anyio.run(done)
