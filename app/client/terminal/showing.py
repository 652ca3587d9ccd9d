"""Prints images for people."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Protocol

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from app.client.generated.enums import ImageStatus
from app.client.generated.fragments import (
    ImageFields,
    ImageFieldsSourceCopySource,
    ImageFieldsSourceServerSource,
    ImageFieldsSourceSnapshotSource,
    ImageFieldsSourceUploadSource,
    ImageFieldsSourceVolumeSource,
    MoneyFields,
    ProgressFields,
)
from app.client.generated.image import ImageImage
from app.client.terminal.output import Output
from app.client.terminal.reporting import phase_text
from app.client.terminal.text import age, size, visible

# Width of a row, in columns, with a name and an operating system of usual length.
_WIDE = 110
_COLOURS = {
    ImageStatus.ACTIVE: "green",
    ImageStatus.QUEUED: "cyan",
    ImageStatus.SAVING: "yellow",
    ImageStatus.ERROR: "red",
}


def image_text(image: ImageFields) -> str:
    """The state of an image on one line."""
    return f"{image.name} is {image.status}: {image.id}"


def show_images(output: Output, images: Sequence[ImageFields]) -> None:
    """Print a table with one row per image. On a narrow terminal, ids are below the names."""
    now, narrow = datetime.now(UTC), output.out.width < _WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    least = max((cell_len(image.id) for image in images), default=0) if narrow else 0
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


def _cells(image: ImageFields, now: datetime) -> list[Text]:
    return [
        Text(visible(image.name)),
        Text(image.type_.lower()),
        Text(visible(image.os.display_name if image.os else "-")),
        Text(str(image.min_boot_disk_gib or "-")),
        Text(image.status, style=_COLOURS.get(image.status, "")),
        Text(image.visibility.lower()),
        Text(age(_instant(image.created_at), now)),
        Text(visible(image.id), style="dim"),
    ]


def show_image(output: Output, image: ImageImage) -> None:
    """Print the details of an image, one line per field."""
    output.details(
        [
            ("id", image.id),
            ("name", image.name),
            ("project", image.project and image.project.name),
            ("type", image.type_.lower()),
            ("status", image.status),
            ("progress", image.progress and progress_text(image.progress)),
            ("failure", image.failure and image.failure.message),
            ("what to do", image.failure and image.failure.hint),
            ("visibility", image.visibility.lower()),
            ("operating system", image.os and image.os.display_name),
            ("architecture", image.architecture and image.architecture.lower()),
            ("disk size", size(image.virtual_size) if image.virtual_size else None),
            ("min boot disk", f"{image.min_boot_disk_gib} GiB" if image.min_boot_disk_gib else None),
            ("stored", size(image.stored_size) if image.stored_size else None),
            ("monthly cost", _cost(image.monthly_cost)),
            ("sha256", image.sha256),
            *_booting(image),
            ("protected", "yes" if image.protected else None),
            ("labels", ", ".join(f"{label.key}={label.value}" for label in image.labels)),
            ("you may", ", ".join(right for right, held in image.viewer_can if held)),
            *_source(image),
            ("created", f"{image.created_at} ({age(_instant(image.created_at), datetime.now(UTC))})"),
            *(("warning", warning) for warning in image.warnings),
        ]
    )


def _booting(image: ImageImage) -> Iterator[tuple[str, str]]:
    """Whether an image is ready to boot, and whether it did."""
    if ready := image.boot_readiness:
        yield "firmware", ready.firmware
        parts = {
            "virtio disks": ready.virtio_blk,
            "virtio network": ready.virtio_net,
            "virtio scsi": ready.virtio_scsi,
            "cloud-init": ready.cloud_init,
        }
        for name, part in parts.items():
            yield name, f"{part.state}: {part.message} {part.hint}" if part.message else part.state
        yield from (("boot note", note) for note in ready.notes)
    if check := image.boot_checked:
        seen = f" ({check.seen})" if check.seen else ""
        yield "boot check", f"{check.result}{seen} after {check.after_seconds:g} s"


def _source(image: ImageFields) -> list[tuple[str, str | None]]:
    """Where an image came from."""
    match image.source:
        case ImageFieldsSourceUploadSource() as upload:
            return [
                ("uploaded file", f"{upload.file_name} ({size(upload.size)})"),
                ("format", upload.detected_format or upload.declared_format),
            ]
        case ImageFieldsSourceCopySource() as copy:
            return [("copy of", _named(copy.image_name, copy.image))]
        case ImageFieldsSourceSnapshotSource() as promoted:
            return [("snapshot", _named(promoted.snapshot_name, promoted.snapshot))]
        case ImageFieldsSourceServerSource() as server:
            return [("server", _named(server.server_name, server.server)), *_moment(server)]
        case ImageFieldsSourceVolumeSource() as volume:
            return [("volume", _named(volume.volume_name, image.volume)), *_moment(volume)]
    return []


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


def _named(name: str, thing: _Identified | None) -> str:
    return f"{name} ({thing.id})" if thing else name


def _moment(source: ImageFieldsSourceServerSource | ImageFieldsSourceVolumeSource) -> list[tuple[str, str | None]]:
    """When the bytes of a volume were captured, and whether its file systems were quiet then."""
    states = {True: "quiet", False: "as after a power failure", None: None}
    return [("captured", source.captured_at), ("file systems", states[source.quiet])]


def progress_text(progress: ProgressFields) -> str:
    """A phase, its progress and the remaining time."""
    left = f", {progress.eta_seconds} s left" if progress.eta_seconds is not None else ""
    return f"{phase_text(progress)} {progress.percent:.0f} % of {size(progress.bytes_total)}{left}"


def _cost(money: MoneyFields | None) -> str | None:
    """An amount with its currency; None if it is zero."""
    return f"{money.amount} {money.currency}" if money and Decimal(money.amount) else None


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
