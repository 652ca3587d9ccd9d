"""Adds the users' commands, which work with any gateway."""

from importlib import import_module

import typer

from app.client import USER_COMMANDS
from app.client.exits import exit_codes_text

# Modules and their functions, in the order of USER_COMMANDS. A module is imported only for its own commands.
_FUNCTIONS = {
    "For users": (
        *("upload.upload", "watch.watch", "list.list_", "show.show", "history.history"),
        *("download.download", "copy.copy", "delete.delete"),
    ),
    "For users: servers": (
        *("launch.launch", "servers.servers", "servers.start", "servers.stop", "servers.delete_server"),
        *("console.console", "volumes.volumes", "volumes.create_volume", "volumes.delete_volume"),
        *("snapshots.snapshot", "snapshots.snapshots", "snapshots.promote"),
    ),
    "For users: sharing": (
        *("share.share", "share.unshare", "share.shares"),
        *("offers.offers", "offers.accept", "offers.decline"),
    ),
    "For users: projects": ("members.projects", "members.members", "members.member", "quota.quota", "usage.usage"),
}


def add_user_commands(app: typer.Typer, only: str | None = None) -> None:
    """Add the users' commands to a command line, or only the command `only`."""
    grouped = [(panel, function) for panel, functions in _FUNCTIONS.items() for function in functions]
    for name, (panel, place) in zip(USER_COMMANDS, grouped, strict=True):
        if only in (None, name):
            module, _, function = place.partition(".")
            act = getattr(import_module(f"app.client.commands.{module}"), function)
            app.command(name, epilog=exit_codes_text(), rich_help_panel=panel)(act)
