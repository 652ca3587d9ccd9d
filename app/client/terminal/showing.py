"""Images and events as people read them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from app.client.terminal.output import Output
from app.client.terminal.reporting import PHASES
from app.client.terminal.text import age, granted, size, visible

# Columns that a row takes with a name and an operating system of usual length.
_WIDE = 110
_COLOURS = {"ACTIVE": "green", "QUEUED": "cyan", "SAVING": "yellow", "ERROR": "red"}


def show_images(output: Output, images: Sequence[Mapping[str, Any]]) -> None:
    """Print a table, one row for each image; where the terminal is narrow, ids stand below the names."""
    now, narrow = datetime.now(UTC), output.out.width < _WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    least = max((cell_len(image["id"]) for image in images), default=0) if narrow else 0
    table.add_column("NAME", overflow="fold", min_width=least)
    table.add_column("TYPE", no_wrap=True)
    table.add_column("OS", overflow="fold")
    table.add_column("GiB", justify="right", no_wrap=True)
    table.add_column("STATUS", no_wrap=True)
    table.add_column("VISIBLE", no_wrap=True)
    table.add_column("CREATED")
    if not narrow:
        table.add_column("ID", no_wrap=True)
    for image in images:
        cells = _cells(image, now)
        table.add_row(*([Text("\n").join([cells[0], cells[-1]]), *cells[1:-1]] if narrow else cells))
    output.out.print(table)


def _cells(image: Mapping[str, Any], now: datetime) -> list[Text]:
    return [
        Text(visible(image["name"])),
        Text(image["type"].lower()),
        Text(visible((image["os"] or {}).get("displayName", "-"))),
        Text(str(image["minBootDiskGib"] or "-")),
        Text(image["status"], style=_COLOURS.get(image["status"], "")),
        Text(image["visibility"].lower()),
        Text(age(_instant(image["createdAt"]), now)),
        Text(visible(image["id"]), style="dim"),
    ]


def show_image(output: Output, image: Mapping[str, Any]) -> None:
    """Print all that is known of an image, a line for each field."""
    failure, progress, source = (image.get(name) or {} for name in ("failure", "progress", "source"))
    labels = ", ".join(f"{label['key']}={label['value']}" for label in image["labels"])
    boot_disk = f"{image['minBootDiskGib']} GiB" if image["minBootDiskGib"] else None
    uploaded = f"{source['fileName']} ({size(source['size'])})" if "fileName" in source else None
    rights = ", ".join(right for right, held in (image.get("viewerCan") or {}).items() if held)
    output.details(
        [
            ("id", image["id"]),
            ("name", image["name"]),
            ("project", (image["project"] or {}).get("name")),
            ("type", image["type"].lower()),
            ("status", image["status"]),
            ("progress", progress_text(progress) if progress else None),
            ("failure", failure.get("message")),
            ("what to do", failure.get("hint")),
            ("visibility", image["visibility"].lower()),
            ("operating system", (image["os"] or {}).get("displayName")),
            ("architecture", (image["architecture"] or "").lower()),
            ("disk size", size(image["virtualSize"]) if image["virtualSize"] else None),
            ("least boot disk", boot_disk),
            ("stored", size(image["storedSize"]) if image["storedSize"] else None),
            ("cost a month", _cost(image.get("monthlyCost"))),
            ("sha256", image["sha256"]),
            ("protected", "yes" if image["protected"] else None),
            ("labels", labels),
            ("you may", rights),
            ("uploaded file", uploaded),
            ("copy of", _origin(source)),
            ("format", source.get("detectedFormat") or source.get("declaredFormat")),
            ("created", f"{image['createdAt']} ({age(_instant(image['createdAt']), datetime.now(UTC))})"),
            *(("warning", warning) for warning in image["warnings"]),
        ]
    )


def event_text(event: Mapping[str, Any]) -> str:
    """An item of the feed on one line."""
    if event["__typename"] == "ResyncRequired":
        return "events may be missing: they are no longer kept, or the database was restored; continuing from here"
    name = event.get("imageName") or (event["image"] or {}).get("name") or "(gone)"
    actor = f" (by {event['actor']})" if event.get("actor") else ""
    return f"{event['occurredAt']}  {event['imageId']}  {name}: {_what(event)}{actor}"


def progress_text(progress: Mapping[str, Any]) -> str:
    """A phase and how far it is."""
    left = f", {progress['etaSeconds']} s left" if progress["etaSeconds"] is not None else ""
    phase = PHASES.get(progress["phase"], progress["phase"].lower())
    return f"{phase} {progress['percent']:.0f} % of {size(progress['bytesTotal'])}{left}"


def _what(event: Mapping[str, Any]) -> str:
    match event["__typename"]:
        case "ImageCreated":
            return "created"
        case "ImageDeleted":
            return "deleted"
        case "ImageUpdated":
            return "changed " + ", ".join(event["fields"])
        case "ImageShareChanged":
            return _share_change(event)
        case "ImageProgressed":
            return progress_text(event["progress"])
        case "ImageStatusChanged":
            failure = event["failure"]
            reason = f": {failure['message']} {failure['hint']}" if failure else ""
            return f"{event['from']} -> {event['to']}{reason}"
        case kind:
            return str(kind)


def _share_change(event: Mapping[str, Any]) -> str:
    """What became of a share."""
    project, allowed = event["project"]["name"], granted(event["grant"])
    match event["state"]:
        case "ACCEPTED":
            return f"shared with {project}, to {allowed}"
        case "OFFERED":
            return f"offered to {project}, to {allowed}"
        case "DECLINED":
            return f"declined by {project}"
    return f"not shared with {project} any more"


def _cost(money: Mapping[str, str] | None) -> str | None:
    """An amount; nothing is said of what costs nothing."""
    return f"{money['amount']} {money['currency']}" if money and Decimal(money["amount"]) else None


def _origin(source: Mapping[str, Any]) -> str | None:
    """What an image is a copy of, if it is one."""
    if "imageName" not in source:
        return None
    return f"{source['imageName']} ({source['image']['id']})" if source["image"] else source["imageName"]


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
