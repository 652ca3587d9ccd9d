"""The users' commands, which talk to a gateway from anywhere."""

from collections.abc import Callable

import typer

from app.client import USER_COMMANDS
from app.client.command_copy import copy
from app.client.command_delete import delete
from app.client.command_download import download
from app.client.command_history import history
from app.client.command_list import list_
from app.client.command_members import member, members, projects
from app.client.command_offers import accept, decline, offers
from app.client.command_quota import quota
from app.client.command_share import share, shares, unshare
from app.client.command_show import show
from app.client.command_upload import upload
from app.client.command_usage import usage
from app.client.command_watch import watch
from app.client.exits import exit_codes_text

_FUNCTIONS: dict[str, tuple[Callable[..., None], ...]] = {
    "For users": (upload, watch, list_, show, history, download, copy, delete),
    "For users: sharing": (share, unshare, shares, offers, accept, decline),
    "For users: projects": (projects, members, member, quota, usage),
}


def add_user_commands(app: typer.Typer) -> None:
    """Add the users' commands to a command line."""
    grouped = [(panel, function) for panel, functions in _FUNCTIONS.items() for function in functions]
    for name, (panel, function) in zip(USER_COMMANDS, grouped, strict=True):
        app.command(name, epilog=exit_codes_text(), rich_help_panel=panel)(function)
