"""Checks the report of `qemu-img info`: a second check, of the header as QEMU itself reads it."""

from typing import Any

from workers.inspection.refusals import (
    EXPORT_AGAIN,
    MAKE_WHOLE,
    REPAIR,
    check_virtual_size,
    corrupt,
    unsafe,
    unsupported,
)

_TAKEN = {"monolithicSparse", "streamOptimized"}


def check_reported(info: dict[str, Any], name: str, max_virtual_size: int) -> int:
    """Refuse an image that needs other files or a key; return the size of its disk in bytes. Raises ImageFailed.

    `info` is QEMU's JSON about the file `name`.
    """
    details = info.get("format-specific", {}).get("data", {})
    if "backing-filename" in info or "full-backing-filename" in info:
        raise unsafe("This image needs a backing file.", MAKE_WHOLE)
    if "data-file" in details:
        raise unsafe("This image keeps its data in another file.", MAKE_WHOLE)
    if info.get("encrypted") or "encrypt" in details:
        raise unsupported("This image is encrypted.", "Decrypt it and upload the new file.")
    if details.get("corrupt"):
        raise corrupt("This image is marked corrupt.", REPAIR)
    if details.get("create-type", "monolithicSparse") not in _TAKEN:
        raise unsupported("This VMDK has a type that is not supported.", EXPORT_AGAIN)
    if [extent.get("filename", name) for extent in details.get("extents", [])] not in ([], [name]):
        raise unsafe("This VMDK takes its data from other files.", MAKE_WHOLE)
    size = int(info["virtual-size"])
    check_virtual_size(size, max_virtual_size)
    return size
