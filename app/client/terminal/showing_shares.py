"""Prints shares and offers for people."""

from collections.abc import Sequence
from datetime import UTC, datetime

from app.client.generated.enums import ShareState
from app.client.generated.fragments import ShareFields
from app.client.terminal.output import Output
from app.client.terminal.text import age, granted

_STATES = {
    ShareState.ACCEPTED: "is shared with",
    ShareState.OFFERED: "is offered to",
    ShareState.DECLINED: "was declined by",
}


def share_text(share: ShareFields) -> str:
    """The state of a share on one line."""
    state = _STATES.get(share.state, share.state.lower())
    allowed = "" if share.state == ShareState.DECLINED else f", to {granted(share.grant)}"
    return f"{share.image_name} {state} {share.project.name}{allowed}: {share.id}"


def show_shares(output: Output, shares: Sequence[ShareFields]) -> None:
    """Print the shares of an image, one per row."""
    rows = [
        (share.project.name, granted(share.grant), share.state, share.shared_by, _age(share), share.id)
        for share in shares
    ]
    output.table(("PROJECT", "MAY", "STATE", "BY", "CHANGED", "ID"), rows)


def show_offers(output: Output, shares: Sequence[ShareFields]) -> None:
    """Print the offers to a project, one per row."""
    rows = [(share.image_name or "-", granted(share.grant), share.shared_by, _age(share), share.id) for share in shares]
    output.table(("IMAGE", "MAY", "BY", "OFFERED", "ID"), rows)


def _age(share: ShareFields) -> str:
    return age(datetime.fromisoformat(share.updated_at), datetime.now(UTC))
