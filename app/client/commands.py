"""The users' commands, which talk to a gateway from anywhere."""

from collections.abc import Callable

import typer

from app.client import USER_COMMANDS
from app.client.command_delete import delete
from app.client.command_download import download
from app.client.command_list import list_
from app.client.command_show import show
from app.client.command_upload import upload
from app.client.command_watch import watch
from app.client.exits import exit_codes_text

_FUNCTIONS: tuple[Callable[..., None], ...] = (upload, watch, list_, show, download, delete)


def add_user_commands(app: typer.Typer) -> None:
    """Add upload, watch, list, show, download and delete to a command line."""
    for name, function in zip(USER_COMMANDS, _FUNCTIONS, strict=True):
        app.command(name, epilog=exit_codes_text(), rich_help_panel="For users")(function)
