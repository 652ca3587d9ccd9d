"""Asks before something is deleted."""

import sys

from app.client.errors import Interrupted, Misconfigured
from app.client.terminal.output import Output
from app.client.terminal.text import visible


def require_answer(output: Output, *, yes: bool) -> None:
    """Raises Misconfigured if no one can be asked, and `yes` does not say that it may be deleted."""
    if not yes and not (sys.stdin.isatty() and output.err.is_terminal):
        raise Misconfigured("Can't ask for confirmation without a terminal.", hint="Use --yes to delete without it.")


def confirm(output: Output, what: str, *, yes: bool) -> None:
    """Ask whether to delete `what`, unless `yes`. Raises Interrupted if the answer is not yes."""
    if yes:
        return
    output.err.print(f"Delete {visible(what)}? [y/N] ", end="")
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        answer = "\n"
    if answer.strip().lower() not in ("y", "yes"):
        raise Interrupted("Nothing was deleted.")
