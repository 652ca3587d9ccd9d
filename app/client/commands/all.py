"""The users' commands, which talk to a gateway from anywhere."""

from collections.abc import Callable

import typer

from app.client import USER_COMMANDS
from app.client.commands.copy import copy
from app.client.commands.delete import delete
from app.client.commands.download import download
from app.client.commands.history import history
from app.client.commands.list import list_
from app.client.commands.members import member, members, projects
from app.client.commands.offers import accept, decline, offers
from app.client.commands.quota import quota
from app.client.commands.share import share, shares, unshare
from app.client.commands.show import show
from app.client.commands.upload import upload
from app.client.commands.usage import usage
from app.client.commands.watch import watch
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
