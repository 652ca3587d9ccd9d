"""Describes the image that an upload creates."""

import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.client.errors import Misconfigured
from app.client.generated.enums import Architecture, DiskFormat
from app.client.generated.input_types import (
    CreateImageInput,
    ImageSourceInput,
    LabelInput,
    OperatingSystemInput,
    UploadInput,
)
from app.client.transfer.disk_file import DiskFile

_MAXIMUM_NAME = 255
_FORMATS = "qcow2, raw, vmdk, vhd or vhdx"


@dataclass(frozen=True, slots=True)
class NewImage:
    """The description of an image. With `checksum`, the file's SHA-256 is computed before the upload."""

    name: str
    file_name: str
    size: int
    format: DiskFormat
    architecture: Architecture
    os_family: str | None = None
    os_version: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    sha256: str | None = None
    checksum: bool = False
    verify_boot: bool = False

    def as_input(self, project_id: str, sha256: str | None) -> CreateImageInput:
        """The input of createImage, without its idempotency key."""
        os = OperatingSystemInput(family=self.os_family, version=self.os_version) if self.os_family else None
        file = UploadInput(file_name=self.file_name, size=self.size, format=self.format, sha256=sha256)
        return CreateImageInput(
            project_id=project_id,
            name=self.name,
            architecture=self.architecture,
            os=os,
            labels=[LabelInput(key=key, value=value) for key, value in self.labels] or None,
            source=ImageSourceInput(upload=file),
            # An older gateway does not know this field.
            **({"verify_boot": True} if self.verify_boot else {}),
        )

    def identity(self) -> dict[str, Any]:
        """Distinguishes this upload from others: the same file with another image name is another upload."""
        content = self.content()
        return {name: value for name, value in asdict(self).items() if name not in content}

    def content(self) -> dict[str, Any]:
        """The description of the file's bytes, which may differ after the file has changed."""
        return {"size": self.size, "format": self.format, "sha256": self.sha256}


def describe(
    disk: DiskFile,
    *,
    name: str | None,
    format: DiskFormat | None,
    architecture: Architecture,
    os: tuple[str | None, str | None],
    labels: Sequence[str],
    sha256: str | None,
    checksum: bool,
    verify_boot: bool = False,
) -> NewImage:
    """The image that the options of `images upload` describe. Raises Misconfigured."""
    family, version = os
    if version and not family:
        raise Misconfigured("--os-version is given, but --os is not.", hint="Add --os, for example --os ubuntu.")
    if sha256 and checksum:
        raise Misconfigured("--sha256 and --checksum can't be combined.", hint="Use only one of them.")
    return NewImage(
        name=_proper(name) if name is not None else _name_of(disk),
        file_name=disk.name,
        size=disk.size,
        format=format or _format_of(disk),
        architecture=architecture,
        os_family=family,
        os_version=version,
        labels=tuple(_label(text) for text in labels),
        sha256=sha256,
        checksum=checksum,
        verify_boot=verify_boot,
    )


def _format_of(disk: DiskFile) -> DiskFormat:
    found = disk.format()
    if found is None:
        raise Misconfigured(
            f"The format of {disk.path} can't be detected from its name or its bytes.",
            hint=f"Set --format ({_FORMATS}). Run `qemu-img info FILE` to find it; unpack archives first.",
            code="UNSUPPORTED_FORMAT",
        )
    return found


def _name_of(disk: DiskFile) -> str:
    """The file's name without its extension, shortened and without characters that image names can't contain."""
    stem = disk.name.rpartition(".")[0] or disk.name
    shown = "".join("_" if unicodedata.category(character) == "Cc" else character for character in stem)
    return shown.strip()[:_MAXIMUM_NAME] or "image"


def _label(text: str) -> tuple[str, str]:
    key, equals, value = _proper(text).partition("=")
    if not key or not equals:
        raise Misconfigured(f"{text} is not a valid label.", hint="Write labels as key=value.")
    return key, value


def _proper(argument: str) -> str:
    """An argument as valid Unicode; invalid bytes are replaced."""
    return argument.encode(errors="surrogateescape").decode(errors="replace")
