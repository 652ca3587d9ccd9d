"""`images console`"""

from contextlib import aclosing
from typing import Annotated

import typer

from app.client.api.connection import Connection
from app.client.api.console import MAXIMUM_KIB, POLL_SECONDS, console_of, follow_console
from app.client.api.servers import find_server
from app.client.commands import options
from app.client.commands.servers import Server
from app.client.commands.session import command, run, session
from app.client.generated.console import ConsoleNodeServerConsole
from app.client.retrying import RetryPolicy
from app.client.terminal.output import Output


def console(
    server: Server,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue to print what the server writes, until it stops.")
    ] = False,
    last: Annotated[
        int, typer.Option("--last", min=1, max=MAXIMUM_KIB, metavar="KIB", help="How much to print, in KiB.")
    ] = 64,
    patience: options.PatienceSeconds = 120,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Print the end of what a server wrote to its serial console. With --follow --json, one line of JSON per text."""
    with command(as_json=as_json) as output:
        where, policy = options.connection_of(connection, project), RetryPolicy(patience)
        if follow:
            run(_followed(where, output, server, last, policy))
            return
        found = run(_read(where, server, last, policy))
        if as_json:
            output.json(found)
            return
        if found.text:
            output.text(found.text if found.text.endswith("\n") else f"{found.text}\n")
        else:
            output.note("The server has not written anything yet.")


async def _read(connection: Connection, wanted: str, last: int, policy: RetryPolicy) -> ConsoleNodeServerConsole:
    async with session(connection) as at:
        server = await find_server(at.api, wanted, connection.project)
        return await policy.until_done(lambda: console_of(at.api, server.id, last))


async def _followed(connection: Connection, output: Output, wanted: str, last: int, policy: RetryPolicy) -> None:
    async with session(connection) as at:
        server = await find_server(at.api, wanted, connection.project)
        async with aclosing(follow_console(at.api, server.id, last, policy, POLL_SECONDS)) as texts:
            async for written in texts:
                if written.gap:
                    output.note("Some of the output is missing: the server wrote faster than it was read.")
                if output.as_json:
                    output.json({"text": written.text, "readAt": written.read_at, "gap": written.gap}, indent=None)
                else:
                    output.text(written.text)
        output.note(f"{server.name} has stopped.")
