"""The ways in which an image is refused, each with its code. Messages and hints are read by its owner."""

from app.errors import ImageFailed
from app.lifecycle import FailureCode

UPLOAD_AGAIN = "Compare the file with its original and upload it again. If they are the same, export the disk again."
EXPORT_AGAIN = "Export the disk again as one file, with the program that wrote it, and upload the new file."
CONVERT_FIRST = "Convert it with `qemu-img convert -O qcow2 FILE image.qcow2` and upload the new file."
MAKE_WHOLE = (
    "Convert it with `qemu-img convert -O qcow2 FILE image.qcow2`, where its other files are, and upload the new file."
)
# QEMU takes each of the other files for a disk of its own.
CONVERT_DESCRIPTOR = (
    "Convert its descriptor, the small text file that names all its files, with "
    "`qemu-img convert -O qcow2 DESCRIPTOR image.qcow2`, and upload the new file."
)
REPAIR = "Repair it with `qemu-img check -r all FILE` and upload it again."


def corrupt(message: str, hint: str = UPLOAD_AGAIN, *, retriable: bool = False) -> ImageFailed:
    """The bytes contradict each other, or some are missing."""
    return ImageFailed(FailureCode.CORRUPT_IMAGE, message, hint, retriable=retriable)


def unsafe(message: str, hint: str) -> ImageFailed:
    """The image could make its reader open something else than itself, or is not what it seems."""
    return ImageFailed(FailureCode.UNSAFE_IMAGE, message, hint)


def unsupported(message: str, hint: str) -> ImageFailed:
    """An honest image of a kind that is not taken in."""
    return ImageFailed(FailureCode.UNSUPPORTED_FORMAT, message, hint)


def mismatch(message: str, hint: str) -> ImageFailed:
    """The content is not of the format that was declared."""
    return ImageFailed(FailureCode.FORMAT_MISMATCH, message, hint)


def too_large(message: str, hint: str) -> ImageFailed:
    """The disk is bigger than what is taken."""
    return ImageFailed(FailureCode.TOO_LARGE, message, hint)


def over_quota(size: int | None = None) -> ImageFailed:
    """Converted, an image takes more room than its project has left: `size` bytes, where that is known."""
    room = "more image storage" if size is None else f"{size} bytes of image storage: more"
    return ImageFailed(
        FailureCode.QUOTA_EXCEEDED,
        f"Converted, this image takes {room} than its project has left.",
        "Delete images that are not needed any more, or have the limit raised. Then retryImage converts it again: "
        "the uploaded bytes are kept.",
        retriable=True,
    )


def check_stored_size(size: int, room: int | None) -> None:
    """Refuse a result of `size` bytes where there is room for fewer; None: there is room for any."""
    if room is not None and size > room:
        raise over_quota(size)


def storage_full() -> ImageFailed:
    """Not the image's fault: no room to convert it in."""
    return ImageFailed(
        FailureCode.STORAGE_UNAVAILABLE,
        "There was no room left to convert the image.",
        "Nothing is lost: retry when the operator has made room.",
        retriable=True,
    )


def checksum_mismatch(declared: str, found: str) -> ImageFailed:
    """Both are SHA-256, in hex."""
    return ImageFailed(
        FailureCode.CHECKSUM_MISMATCH,
        f"The SHA-256 of the uploaded file is {found}, not {declared} as declared.",
        "Work out the checksum of your file again; if it is right, the upload was damaged: send it again.",
    )


def check_virtual_size(size: int, max_virtual_size: int) -> None:
    """Refuse a disk of `size` bytes that is empty, too big, or no whole number of 512-byte sectors."""
    if size == 0:
        raise corrupt("The disk in this image has a size of zero.", "Upload an image of a real disk.")
    if size > max_virtual_size:
        raise too_large(
            f"The disk in this image is {size} bytes large; at most {max_virtual_size} are taken.",
            "Shrink the file systems on it, convert it with `qemu-img convert -O qcow2 FILE image.qcow2`, shrink that "
            f"with `qemu-img resize --shrink image.qcow2 {max_virtual_size}`, and upload it.",
        )
    if size % 512:
        raise corrupt(
            f"The disk in this image is {size} bytes large, which is no multiple of 512.",
            "Compare the file with its original. If they are the same, and it is a raw disk, fill it up with "
            "`truncate -s %512 FILE` and upload it again.",
        )
