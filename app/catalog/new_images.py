"""A new image as it is asked for: checked, and written down as the rows that it becomes."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.catalog import texts
from app.errors import Conflict, InvalidInput, NotFound, TooLarge, UnsupportedFormat
from app.lifecycle import Architecture, DiskFormat
from app.models import IdempotencyKey, Image, Source, Upload, new_id, now
from app.settings import Settings
from app.sizes import MIB, exactly
from app.viewer import Viewer

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAXIMUM_FILE_NAME = 16_384
_MAXIMUM_KEY = 255

_FORMATS = {
    ".qcow2": DiskFormat.QCOW2,
    ".raw": DiskFormat.RAW,
    ".vmdk": DiskFormat.VMDK,
    ".vhd": DiskFormat.VHD,
    ".vhdx": DiskFormat.VHDX,
}
_TAKEN = "qcow2, raw, vmdk, vhd and vhdx are taken"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewImage:
    """What `createImage` is asked for, whatever the source."""

    project_id: str
    name: str
    os_family: str | None = None
    os_version: str | None = None
    architecture: Architecture | None = Architecture.X86_64
    labels: tuple[tuple[str, str], ...] = ()
    idempotency_key: str | None = None

    def fingerprint(self) -> str:
        """Equal for equal requests, whatever their idempotency key."""
        said = {name: value for name, value in asdict(self).items() if name != "idempotency_key"}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload(NewImage):
    """With a file to be uploaded as the source. Size in bytes, `sha256` of the file."""

    file_name: str
    size: int
    format: DiskFormat | None = None
    sha256: str | None = None
    multipart: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCopy(NewImage):
    """With another image as the source."""

    image_id: str


def described(viewer: Viewer, new: NewImage) -> dict[str, Any]:
    """What is said about a new image, by column, and nothing of its source. Raises InvalidInput."""
    if new.idempotency_key is not None:
        _check_key(new.idempotency_key)
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


async def made_before(session: AsyncSession, new: NewImage) -> Image | None:
    """The image that an earlier request with the same idempotency key made. Raises Conflict, NotFound."""
    if new.idempotency_key is None:
        return None
    known = await session.get(IdempotencyKey, (new.project_id, new.idempotency_key))
    if known is None:
        return None
    if known.fingerprint != new.fingerprint():
        raise Conflict(
            "The idempotency key was used for another request.",
            field=("idempotencyKey",),
            hint="Use a new key for what is a new image.",
        )
    image = await session.get_one(Image, known.image_id)
    if image.deleted_at is not None:
        raise NotFound(
            "The image that was made with this idempotency key has been deleted.",
            field=("idempotencyKey",),
            hint="Use a new key.",
        )
    return image


def remembered(new: NewImage, image: Image) -> IdempotencyKey | None:
    """The row by which a later request with the same key finds the image; None for a request without a key."""
    if new.idempotency_key is None:
        return None
    return IdempotencyKey(
        project_id=new.project_id,
        key=new.idempotency_key,
        fingerprint=new.fingerprint(),
        image_id=image.id,
    )


def _part_size(new: NewUpload, settings: Settings) -> int:
    field = ("source", "upload", "size")
    if new.size < 1:
        raise InvalidInput("The file is empty.", field=field, hint="Upload a disk image.")
    if new.size > settings.upload_limit:
        raise TooLarge(
            f"{exactly(new.size)} are more than the {exactly(settings.upload_limit)} that an upload may have.",
            field=field,
            hint="Make the file smaller, for example with qemu-img convert -O qcow2, which leaves out holes.",
        )
    if new.multipart is False:
        if new.size > settings.largest_part:
            raise TooLarge(
                f"{exactly(new.size)} are more than the {exactly(settings.largest_part)} of one part.",
                field=field,
                hint="Leave multipart out or make it true: then the file is sent in parts, of any size in all.",
            )
        return new.size
    least = -(-new.size // settings.maximum_parts)
    return max(settings.minimum_part_size, -(-least // MIB) * MIB)


def clean_file_name(file_name: str) -> str:
    """What a file was called, for people to read. It is data and never becomes a path. Raises InvalidInput."""
    if not file_name.strip() or len(file_name) > _MAXIMUM_FILE_NAME:
        raise InvalidInput(
            f"A file name has 1 to {_MAXIMUM_FILE_NAME} characters.", field=("source", "upload", "fileName")
        )
    return file_name


def _declared_format(new: NewUpload) -> DiskFormat:
    """The format that the request or the file's name declares; raw is never guessed."""
    suffix = PurePosixPath(new.file_name.replace("\0", "").lower()).suffix
    by_name = _FORMATS.get(suffix)
    declared = new.format or by_name
    if declared is None:
        raise UnsupportedFormat(
            f"The file's name does not tell its format: {_TAKEN}.",
            field=("source", "upload", "format"),
            hint="Say format. `qemu-img info FILE` tells it; an archive has to be unpacked first.",
        )
    return declared


def _check_key(key: str) -> None:
    if not 1 <= len(key) <= _MAXIMUM_KEY:
        raise InvalidInput(f"An idempotency key has 1 to {_MAXIMUM_KEY} characters.", field=("idempotencyKey",))
    texts.require_text(key, ("idempotencyKey",))


def _clean_sha256(sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    cleaned = sha256.strip().lower()
    if not _SHA256.fullmatch(cleaned):
        raise InvalidInput(
            "A SHA-256 has 64 hexadecimal digits.",
            field=("source", "upload", "sha256"),
            hint="sha256sum FILE",
        )
    return cleaned
