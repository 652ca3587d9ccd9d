"""Shares and offers as people read them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from app.client.terminal.output import Output
from app.client.terminal.text import age, granted

_STATES = {"ACCEPTED": "is shared with", "OFFERED": "is offered to", "DECLINED": "is declined by"}


def share_text(share: Mapping[str, Any]) -> str:
    """What has become of a share, on one line."""
    state = _STATES.get(share["state"], share["state"].lower())
    allowed = "" if share["state"] == "DECLINED" else f", to {granted(share['grant'])}"
    return f"{share['imageName']} {state} {share['project']['name']}{allowed}: {share['id']}"


def show_shares(output: Output, shares: Sequence[Mapping[str, Any]]) -> None:
    """Print the shares of an image, one row each."""
    rows = [
        (share["project"]["name"], granted(share["grant"]), share["state"], share["sharedBy"], _age(share), share["id"])
        for share in shares
    ]
    output.table(("PROJECT", "MAY", "STATE", "BY", "CHANGED", "ID"), rows)


def show_offers(output: Output, shares: Sequence[Mapping[str, Any]]) -> None:
    """Print what is offered to a project, one row each."""
    rows = [
        (share["imageName"] or "-", granted(share["grant"]), share["sharedBy"], _age(share), share["id"])
        for share in shares
    ]
    output.table(("IMAGE", "MAY", "BY", "OFFERED", "ID"), rows)


def _age(share: Mapping[str, Any]) -> str:
    return age(datetime.fromisoformat(share["updatedAt"]), datetime.now(UTC))
