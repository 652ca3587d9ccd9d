"""Why an image is refused: a code, and a message and a hint for the image's owner."""

from collections.abc import Callable

from app.errors import ImageFailed
from app.lifecycle import FailureCode
from app.sizes import counted, exactly

UPLOAD_AGAIN = "Compare the file with its original and upload it again. If they are identical, export the disk again."
EXPORT_AGAIN = "Export the disk again as a single file with the program that wrote it, and upload the new file."
CONVERT_FIRST = "Convert it with `qemu-img convert -O qcow2 FILE image.qcow2` and upload the new file."
MAKE_WHOLE = (
    "Run `qemu-img convert -O qcow2 FILE image.qcow2` in the folder that holds its other files, and upload the new "
    "file."
)
# QEMU reads each of the other files as a separate disk.
CONVERT_DESCRIPTOR = (
    "Convert its descriptor (the small text file that lists all its files) with "
    "`qemu-img convert -O qcow2 DESCRIPTOR image.qcow2` and upload the new file."
)
REPAIR = "Repair it with `qemu-img check -r all FILE` and upload it again."


def corrupt(message: str, hint: str = UPLOAD_AGAIN, *, retriable: bool = False) -> ImageFailed:
    """The file contradicts itself or is incomplete."""
    return ImageFailed(FailureCode.CORRUPT_IMAGE, message, hint, retriable=retriable)


def unsafe(message: str, hint: str) -> ImageFailed:
    """The image could make its reader open other files, or is not what it claims to be."""
    return ImageFailed(FailureCode.UNSAFE_IMAGE, message, hint)


def unsupported(message: str, hint: str) -> ImageFailed:
    """A valid image of a kind that is not supported."""
    return ImageFailed(FailureCode.UNSUPPORTED_FORMAT, message, hint)


def mismatch(message: str, hint: str) -> ImageFailed:
    """The content does not have the declared format."""
    return ImageFailed(FailureCode.FORMAT_MISMATCH, message, hint)


def too_large(message: str, hint: str) -> ImageFailed:
    """The disk is larger than the limit."""
    return ImageFailed(FailureCode.TOO_LARGE, message, hint)


def over_quota(size: int | None = None, room: int = 0) -> ImageFailed:
    """The result is larger than the project's free image storage: `size` and `room` in bytes, if they are known."""
    if size is None:
        message = "The converted image needs more image storage than its project has left."
    else:
        left = exactly(max(0, room))
        message = f"The converted image needs {exactly(size)} of image storage, but its project has only {left} left."
    return ImageFailed(
        FailureCode.QUOTA_EXCEEDED,
        message,
        "Delete images that are no longer needed or have the limit raised, then call retryImage: the uploaded bytes "
        "are kept.",
        retriable=True,
    )


def check_stored_size(size: int, room: int | None) -> None:
    """Refuse a result of `size` bytes that exceeds `room`, in bytes; None means no limit. Raises ImageFailed."""
    if room is not None and size > room:
        raise over_quota(size, room)


def within(room: int | None) -> Callable[[int], None]:
    """A function that refuses a result that takes more than `room` bytes so far. It raises ImageFailed."""

    def require_room(size: int) -> None:
        if room is not None and size > room:
            raise over_quota()

    return require_room


def storage_full() -> ImageFailed:
    """The gateway has no space to convert the image. The image is not at fault."""
    return ImageFailed(
        FailureCode.STORAGE_UNAVAILABLE,
        "There was not enough disk space to convert the image.",
        "Call retryImage once the operator has freed space: the uploaded bytes are kept.",
        retriable=True,
    )


def checksum_mismatch(declared: str, found: str) -> ImageFailed:
    """The file has a different checksum than declared. Both are SHA-256, in hex."""
    return ImageFailed(
        FailureCode.CHECKSUM_MISMATCH,
        f"The SHA-256 of the uploaded file is {found}, but {declared} was declared.",
        "Compute the SHA-256 of your file again. If it is the declared one, the upload was damaged: upload the file "
        "again.",
    )


def check_virtual_size(size: int, max_virtual_size: int) -> None:
    """Refuse a disk of `size` bytes that is empty, too large or not a multiple of 512 bytes. Raises ImageFailed."""
    if size == 0:
        raise corrupt("The disk in this image has a size of zero.", "Upload an image of a disk that is not empty.")
    if size > max_virtual_size:
        raise too_large(
            f"The disk in this image has a size of {exactly(size)}; the limit is {exactly(max_virtual_size)}.",
            "Shrink the file systems on it, convert it with `qemu-img convert -O qcow2 FILE image.qcow2`, shrink the "
            f"result with `qemu-img resize --shrink image.qcow2 {max_virtual_size}`, and upload that.",
        )
    if size % 512:
        raise corrupt(
            f"The disk in this image has {counted(size, 'byte')}, which is not a multiple of 512.",
            "Compare the file with its original. If they are identical and it is a raw disk, pad it with "
            "`truncate -s %512 FILE` and upload it again.",
        )
