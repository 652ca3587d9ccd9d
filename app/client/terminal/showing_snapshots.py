"""Prints snapshots for people."""

from collections.abc import Sequence
from datetime import UTC, datetime

from app.client.generated.fragments import (
    ImageFields,
    ImageFieldsSourceServerSource,
    ImageFieldsSourceVolumeSource,
)
from app.client.terminal.output import Output
from app.client.terminal.text import age, size


def show_snapshots(output: Output, snapshots: Sequence[ImageFields]) -> None:
    """Print a table with one row per snapshot."""
    rows = [
        (one.name, one.status, _origin(one), size(one.virtual_size), size(one.stored_size), _age(one), one.id)
        for one in snapshots
    ]
    columns = ("NAME", "STATUS", "OF", "DISK", "STORED", "TAKEN", "ID")
    output.table(columns, rows, right=("DISK", "STORED"))


def _origin(snapshot: ImageFields) -> str:
    match snapshot.source:
        case ImageFieldsSourceServerSource() as server:
            return server.server_name
        case ImageFieldsSourceVolumeSource() as volume:
            return volume.volume_name
    return "-"


def _age(snapshot: ImageFields) -> str:
    taken = snapshot.created_at
    if isinstance(snapshot.source, ImageFieldsSourceServerSource | ImageFieldsSourceVolumeSource):
        taken = snapshot.source.captured_at or taken
    return age(datetime.fromisoformat(taken), datetime.now(UTC))
