"""Runs a command: its output, its connection to the gateway, and its exit code."""

import asyncio
import os
import sys
import traceback
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import typer

from app.client.api.connection import Connection
from app.client.api.gateway import Api, client
from app.client.errors import ClientError, Interrupted
from app.client.exits import ExitCode
from app.client.terminal.output import Output

Given = TypeVar("Given")


@dataclass(frozen=True, slots=True)
class Session:
    """The gateway's API, and an HTTP client without a token for signed addresses."""

    api: Api
    http: httpx.AsyncClient


@asynccontextmanager
async def session(connection: Connection) -> AsyncIterator[Session]:
    """A session with a gateway."""
    async with client() as http:
        yield Session(Api(connection, http), http)


@contextmanager
def command(*, as_json: bool) -> Iterator[Output]:
    """Runs the body of a command. Prints the error that it raises, and exits with a code of `app.client.exits`."""
    output = Output(as_json)
    try:
        with _interruptible():
            yield output
    except ClientError as error:
        output.error(error)
        raise typer.Exit(int(error.exit_code)) from None
    except BrokenPipeError:
        # Otherwise Python would fail again when it flushes the buffer at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(int(ExitCode.OUTPUT_CLOSED)) from None
    except typer.Exit:
        raise
    except Exception:
        traceback.print_exc()
        raise typer.Exit(int(ExitCode.DEFECT)) from None


def run(act: Coroutine[Any, Any, Given], *, resumed_by: str | None = None) -> Given:
    """The result of `act`. Raises Interrupted on Ctrl-C, with a hint how to resume the command."""
    with _interruptible(resumed_by):
        return asyncio.run(act)


@contextmanager
def _interruptible(resumed_by: str | None = None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("Interrupted.", hint=resumed_by) from None
