"""`images servers`, `images start`, `images stop`, `images delete-server`"""

from typing import Annotated, Any

import typer

from app.client.api.advice import advising
from app.client.api.catalogue import find_project
from app.client.api.connection import Connection
from app.client.api.gateway import present
from app.client.api.servers import find_server, reached, servers_of, until_detached, volumes_of_server
from app.client.commands import options
from app.client.commands.confirming import confirm, require_answer
from app.client.commands.session import command, run, session
from app.client.generated.delete_server import DeleteServerDeleteServer
from app.client.generated.enums import ServerStatus
from app.client.generated.fragments import ServerFields, VolumeFields
from app.client.generated.input_types import DeleteServerInput, StartServerInput, StopServerInput
from app.client.retrying import RetryPolicy
from app.client.terminal.output import Output, as_received
from app.client.terminal.showing_servers import server_text, show_server, show_servers

_ADVICE = {"NO_HYPERVISOR serverId": "Stop a server that is not needed with `images stop`, or try again later."}

Server = Annotated[str, typer.Argument(help="A server, by id or name.", show_default=False)]


def servers(
    server: Annotated[
        str | None, typer.Argument(help="Show the details of this server, by id or name.", show_default="list all")
    ] = None,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """List the servers of a project, or show one with its volumes."""
    with command(as_json=as_json) as output:
        where = options.connection_of(connection, project)
        if server is not None:
            _show(output, *run(_shown(where, server)))
            return
        found = run(_listed(where))
        if as_json:
            output.json(found)
        elif found:
            show_servers(output, found)
        else:
            output.note("No servers yet. Launch one with `images launch IMAGE --name NAME`.")


def start(
    server: Server,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the server is RUNNING.")] = True,
    patience: options.PatienceSeconds = 120,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Start a server that is STOPPED or in ERROR, and wait until it runs."""
    with command(as_json=as_json) as output:
        act = _started(options.connection_of(connection, project), server, wait, RetryPolicy(patience))
        _print(output, run(act, resumed_by="The server still starts."))


def stop(
    server: Server,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the server is STOPPED.")] = True,
    patience: options.PatienceSeconds = 120,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Shut a server down, and wait until it is stopped. Its volumes are kept.

    A guest that does not shut down in time is powered off.
    """
    with command(as_json=as_json) as output:
        act = _stopped(options.connection_of(connection, project), server, wait, RetryPolicy(patience))
        _print(output, run(act, resumed_by="The server still stops."))


def delete_server(
    server: Server,
    yes: options.Yes = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until its other volumes can be used again.")
    ] = True,
    patience: options.PatienceSeconds = 120,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Delete a server with its boot volume. A running server is powered off. Other volumes are detached and kept."""
    with command(as_json=as_json) as output:
        where = options.connection_of(connection, project)
        require_answer(output, yes=yes)
        found, volumes = run(_shown(where, server))
        confirm(output, f"{found.name} ({found.id}, {found.status}) and its boot volume", yes=yes)
        act = _deleted(where, found, volumes if wait else [], RetryPolicy(patience))
        payload = run(act, resumed_by="The server is deleted; its volumes are detached shortly.")
        if as_json:
            output.json({"deletedServerId": payload.deleted_server_id, "cursor": payload.cursor})
        else:
            output.line(f"{found.name} is deleted: {found.id}")


def _print(output: Output, server: ServerFields) -> None:
    if output.as_json:
        output.json(server)
    else:
        output.line(server_text(server))


def _show(output: Output, server: ServerFields, volumes: list[VolumeFields]) -> None:
    if output.as_json:
        details: dict[str, Any] = as_received(server) | {"volumes": volumes}
        output.json(details)
    else:
        show_server(output, server, volumes)


async def _listed(connection: Connection) -> list[ServerFields]:
    async with session(connection) as at:
        return await servers_of(at.api, await find_project(at.api, connection.project))


async def _shown(connection: Connection, wanted: str) -> tuple[ServerFields, list[VolumeFields]]:
    async with session(connection) as at:
        server = await find_server(at.api, wanted, connection.project)
        return server, await volumes_of_server(at.api, server.id)


async def _started(connection: Connection, wanted: str, wait: bool, policy: RetryPolicy) -> ServerFields:
    async with session(connection) as at:
        server = await find_server(at.api, wanted, connection.project)
        given = StartServerInput(server_id=server.id)
        with advising({}, _ADVICE):
            payload = (await policy.until_done(lambda: at.api.start_server(given))).start_server
        started = present(present(payload).server)
        return await reached(at.api, server.id, ServerStatus.RUNNING, policy) if wait else started


async def _stopped(connection: Connection, wanted: str, wait: bool, policy: RetryPolicy) -> ServerFields:
    async with session(connection) as at:
        server = await find_server(at.api, wanted, connection.project)
        given = StopServerInput(server_id=server.id)
        payload = (await policy.until_done(lambda: at.api.stop_server(given))).stop_server
        stopped = present(present(payload).server)
        return await reached(at.api, server.id, ServerStatus.STOPPED, policy) if wait else stopped


async def _deleted(
    connection: Connection, server: ServerFields, volumes: list[VolumeFields], policy: RetryPolicy
) -> DeleteServerDeleteServer:
    async with session(connection) as at:
        payload = present((await at.api.delete_server(DeleteServerInput(server_id=server.id))).delete_server)
        await until_detached(at.api, volumes, policy)
        return payload
