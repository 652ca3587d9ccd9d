"""The input of createImage: validates it, and builds the rows of a new image, its source and its upload."""

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

from app.catalog import texts
from app.catalog.idempotency import Request, check_key
from app.errors import InvalidInput, TooLarge, UnsupportedFormat
from app.lifecycle import Architecture, DiskFormat
from app.models import Image, Source, Upload, new_id, now
from app.settings import Settings
from app.sizes import MIB, exactly
from app.viewer import Viewer

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAXIMUM_FILE_NAME = 16_384

_FORMATS = {
    ".qcow2": DiskFormat.QCOW2,
    ".raw": DiskFormat.RAW,
    ".vmdk": DiskFormat.VMDK,
    ".vhd": DiskFormat.VHD,
    ".vhdx": DiskFormat.VHDX,
}
_SUPPORTED = "qcow2, raw, vmdk, vhd and vhdx"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewImage(Request):
    """The fields of a `createImage` request that all kinds of sources share."""

    name: str
    os_family: str | None = None
    os_version: str | None = None
    architecture: Architecture | None = Architecture.X86_64
    labels: tuple[tuple[str, str], ...] = ()
    verify_boot: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload(NewImage):
    """A request whose source is a file to upload. `size` is in bytes; `sha256` is that of the file."""

    file_name: str
    size: int
    format: DiskFormat | None = None
    sha256: str | None = None
    multipart: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCopy(NewImage):
    """A request whose source is another image."""

    image_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPromotion(NewImage):
    """A request whose source is a snapshot, whose bytes the image then has."""

    snapshot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewServerImage(NewImage):
    """A request whose source is the boot volume of a server."""

    server_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSnapshot(NewImage):
    """A request for a snapshot of a volume, in whose project it will be."""

    project_id: str = ""
    volume_id: str
    architecture: Architecture | None = None


def described(viewer: Viewer, new: NewImage) -> dict[str, Any]:
    """The columns of a new image, without those of its source. Raises InvalidInput."""
    check_key(new)
    name = texts.clean_name(new.name)
    os_family, os_version = new.os_family, new.os_version
    if os_family is not None:
        os_family, os_version = texts.clean_os(os_family, os_version)
    return {
        "project_id": new.project_id,
        "name": name,
        "name_key": texts.name_key(name),
        "labels": texts.clean_labels(new.labels),
        "os_family": os_family,
        "os_version": os_version,
        "architecture": new.architecture,
        "created_by": viewer.subject,
        "verify_boot": new.verify_boot,
    }


def draft(viewer: Viewer, new: NewUpload, settings: Settings) -> tuple[Image, Upload]:
    """The rows of a new image and its upload, with the source. Raises InvalidInput, UnsupportedFormat, TooLarge."""
    image = Image(
        **described(viewer, new),
        id=new_id("img"),
        source_file_name=clean_file_name(new.file_name),
        source_size=new.size,
        source_sha256=_clean_sha256(new.sha256),
        source_declared_format=_declared_format(new),
        reserved_size=new.size,
    )
    return image, _upload_of(image, new, settings)


def _upload_of(image: Image, new: NewUpload, settings: Settings) -> Upload:
    source = Source(
        image_id=image.id,
        size=new.size,
        declared_format=_declared_format(new),
        declared_sha256=image.source_sha256,
    )
    return Upload(
        image_id=image.id,
        source_id=source.id,
        source=source,
        part_size=_part_size(new, settings),
        expires_at=now() + timedelta(seconds=settings.upload_idle_seconds),
    )


def _part_size(new: NewUpload, settings: Settings) -> int:
    field = ("source", "upload", "size")
    if new.size < 1:
        raise InvalidInput("The file is empty.", field=field, hint="Upload a disk image.")
    if new.size > settings.upload_limit:
        raise TooLarge(
            f"The file has {exactly(new.size)}; an upload may have at most {exactly(settings.upload_limit)}.",
            field=field,
            hint="Make the file smaller, for example with `qemu-img convert -O qcow2`, which leaves out holes.",
        )
    if new.multipart is False:
        if new.size > settings.largest_part:
            raise TooLarge(
                f"The file has {exactly(new.size)}; a single part may have at most {exactly(settings.largest_part)}.",
                field=field,
                hint="Omit `multipart` or set it to true to send the file in several parts.",
            )
        return new.size
    least = -(-new.size // settings.maximum_parts)
    return max(settings.minimum_part_size, -(-least // MIB) * MIB)


def clean_file_name(file_name: str) -> str:
    """A valid file name, only ever shown to people: it never becomes a path. Raises InvalidInput."""
    if not file_name.strip() or len(file_name) > _MAXIMUM_FILE_NAME:
        raise InvalidInput(
            f"A file name must have 1 to {_MAXIMUM_FILE_NAME:,} characters.", field=("source", "upload", "fileName")
        )
    return file_name


def _declared_format(new: NewUpload) -> DiskFormat:
    """The format declared by the request or by the file's name; never guessed. Raises UnsupportedFormat."""
    suffix = PurePosixPath(new.file_name.replace("\0", "").lower()).suffix
    by_name = _FORMATS.get(suffix)
    declared = new.format or by_name
    if declared is None:
        raise UnsupportedFormat(
            f"The file's name does not end in a supported format: {_SUPPORTED}.",
            field=("source", "upload", "format"),
            hint="Set `format`. Run `qemu-img info FILE` to find it; unpack archives first.",
        )
    return declared


def _clean_sha256(sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    cleaned = sha256.strip().lower()
    if not _SHA256.fullmatch(cleaned):
        raise InvalidInput(
            "A SHA-256 must have 64 hexadecimal digits.",
            field=("source", "upload", "sha256"),
            hint="Run `sha256sum FILE` to compute it.",
        )
    return cleaned
