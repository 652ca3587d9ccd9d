"""The `images` command. Server code, which takes a second to load, is loaded only for commands that need it."""

import gc
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Annotated

import typer

from app.client import USER_COMMANDS
from app.errors import GatewayError

_PACKAGE = "image-gateway"
# By command: the module that has it and few others, and what adds it.
_OPERATORS_COMMANDS = {
    **dict.fromkeys(("up", "serve"), ("app.commands.api", "add_api_commands")),
    **dict.fromkeys(("work", "schedule", "host"), ("app.commands.work", "add_work_commands")),
    **dict.fromkeys(("hosts", "forget-host"), ("app.commands.hosts", "add_host_commands")),
    **dict.fromkeys(("token", "signin"), ("app.commands.tokens", "add_token_commands")),
    **dict.fromkeys(
        ("migrate", "create-organization", "found", "owner"),
        ("app.commands.organizations", "add_organization_commands"),
    ),
}


def main() -> None:
    """The entry point. Prints an error of the configuration as one line, without a traceback."""
    try:
        command_line = _without_collections(_commands)
        command_line.callback()(_images)
        command_line()
    except GatewayError as error:
        print(f"images: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


def _without_collections(load: Callable[[], typer.Typer]) -> typer.Typer:
    """What `load` returns. What it loads stays until the end, and collections among it take a sixth of the start."""
    gc.disable()
    try:
        return load()
    finally:
        gc.freeze()
        gc.enable()


def _commands() -> typer.Typer:
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    some = typer.Typer(name="images", no_args_is_help=True, pretty_exceptions_enable=False)
    if asked == "--version":
        return some
    if asked in USER_COMMANDS:
        import_module("app.client.commands.all").add_user_commands(some, only=asked)
        return some
    if asked in _OPERATORS_COMMANDS:
        module, adds = _OPERATORS_COMMANDS[asked]
        getattr(import_module(module), adds)(some)
        return some
    everything: typer.Typer = import_module("app.commands.operators").command_line()
    return everything


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"images {metadata.version(_PACKAGE)}")
        raise typer.Exit


def _images(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the installed version and exit."),
    ] = False,
) -> None:
    """Options of `images` itself."""
