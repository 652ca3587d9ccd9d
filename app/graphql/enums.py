"""The vocabulary of `app.lifecycle` as GraphQL enums."""

from enum import StrEnum

import strawberry

from app import lifecycle
from app.boot_readiness import report
from app.catalog.images import ImageOrder

_DESCRIPTIONS: dict[type[StrEnum], tuple[str, str, dict[str, str]]] = {
    lifecycle.ImageType: (
        "ImageType",
        "Kind of an image.",
        {
            "STOCK": "Curated by the provider.",
            "CUSTOM": "Created or imported by a project.",
            "SNAPSHOT": "A point-in-time capture of a volume.",
        },
    ),
    lifecycle.ImageStatus: (
        "ImageStatus",
        "Lifecycle status of an image. QUEUED becomes SAVING, and SAVING becomes ACTIVE; each can become ERROR, "
        "which `retryImage` can turn into SAVING. Images of volumes begin as SAVING.",
        {
            "QUEUED": "The image waits for bytes, or for a worker.",
            "SAVING": "A worker is inspecting, converting and storing the bytes, or a host those of a volume.",
            "ACTIVE": "Servers can be launched from the image.",
            "ERROR": "The image can't be used; `failure` states why and what to do.",
        },
    ),
    lifecycle.ImageVisibility: (
        "ImageVisibility",
        "Who can see an image.",
        {
            "PROJECT": "The members of the image's project.",
            "SHARED": "The members of the image's project, and of the projects that have accepted a share of it.",
            "PUBLIC": "The members of every project.",
        },
    ),
    lifecycle.ImagePhase: (
        "ImagePhase",
        "Phase of an image that is QUEUED or SAVING.",
        {
            "AWAITING_UPLOAD": "No byte has arrived yet.",
            "UPLOADING": "Bytes are arriving.",
            "WAITING": "All bytes have arrived; no worker has started yet. Or a host has yet to take the snapshot.",
            "CAPTURING": "A host reads the volume and stores what it reads.",
            "INSPECTING": "A worker checks the format of the file, and whether it is safe.",
            "CONVERTING": "A worker writes the qcow2.",
            "STORING": "A worker uploads the qcow2 to the object store.",
            "VERIFYING": "A worker checks the stored qcow2.",
        },
    ),
    lifecycle.UploadState: (
        "UploadState",
        "Whether an upload is open, or how it ended.",
        {
            "OPEN": "The upload accepts bytes.",
            "COMPLETED": "All bytes have arrived and can no longer change.",
            "ABORTED": "The upload was aborted by `abortUpload`.",
            "REFUSED": "The first bytes or a part of the upload were refused; the image's `failure` states why.",
            "EXPIRED": "No byte arrived for too long.",
        },
    ),
    lifecycle.Architecture: (
        "Architecture",
        "Processor architecture of an image.",
        {"X86_64": "64-bit x86.", "AARCH64": "64-bit Arm."},
    ),
    lifecycle.DiskFormat: (
        "DiskFormat",
        "Format of a disk image file that can be uploaded.",
        {
            "QCOW2": "QEMU's copy-on-write format, version 2 or 3.",
            "RAW": "The bytes of the disk, without a header. It is never detected, so it has to be declared.",
            "VMDK": "VMware's format, as one file: monolithicSparse or streamOptimized.",
            "VHD": "Microsoft's older format, dynamic or fixed.",
            "VHDX": "Microsoft's newer format, dynamic or fixed.",
        },
    ),
    lifecycle.ProjectRole: (
        "ProjectRole",
        "Role of a member in a project.",
        {
            "READER": "May see and download images, and read history, limits and the bill.",
            "MEMBER": "The same as READER, and may create, copy, change, protect and delete images.",
            "ADMIN": "The same as MEMBER, and may share images, answer offers and manage the members of the project.",
        },
    ),
    lifecycle.ShareGrant: (
        "ShareGrant",
        "What the members of a project may do with an image that another project shares with them.",
        {
            "LAUNCH": "See, download and copy the image, and launch servers from it.",
            "LAUNCH_AND_EDIT": "The same as LAUNCH, and change the image's name, operating system and labels.",
        },
    ),
    lifecycle.ShareState: (
        "ShareState",
        "Whether a project has accepted an image that is shared with it.",
        {
            "OFFERED": "No admin of the project has accepted or declined yet.",
            "ACCEPTED": "The project has accepted the image and can see it.",
            "DECLINED": "The project has declined the image, or has given it up.",
        },
    ),
    lifecycle.ServerStatus: (
        "ServerStatus",
        "Lifecycle status of a server.",
        {
            "STARTING": "A host prepares the server and starts it.",
            "RUNNING": "The virtual machine runs. Its guest may still be booting.",
            "STOPPED": "The virtual machine does not run; its volumes are kept.",
            "ERROR": "The server can't be started, or its host does not answer; `failure` states why.",
        },
    ),
    lifecycle.ServerFirmware: (
        "ServerFirmware",
        "Firmware of a server: what starts its boot loader.",
        {"BIOS": "Starts the boot loader in the first sector.", "UEFI": "Starts the boot loader of an EFI partition."},
    ),
    report.Firmware: (
        "BootFirmware",
        "Firmware that an image has a boot loader for.",
        {
            "BIOS": "BIOS only.",
            "UEFI": "UEFI only.",
            "BOTH": "BIOS and UEFI.",
            "UNKNOWN": "It could not be determined.",
        },
    ),
    report.Support: (
        "BootSupport",
        "Whether a server can use a driver, or cloud-init, of an image.",
        {
            "PRESENT": "It is there, and is loaded or started in time.",
            "MISSING": "It is not there.",
            "NOT_IN_INITRAMFS": "The kernel can load it only from the disk that needs it, so it is of no use for the "
            "boot disk.",
            "DISABLED": "It is installed, and configured not to start.",
            "UNKNOWN": "It could not be determined.",
        },
    ),
    lifecycle.BootResult: (
        "BootResult",
        "Result of a boot check.",
        {
            "BOOTED": "The server came up; `seen` states what showed it.",
            "NOT_SEEN": "Nothing showed within the time limit that the server came up.",
            "ENDED": "The server powered off or crashed before it came up.",
            "FAILED": "No host could run the check.",
        },
    ),
    lifecycle.BootSign: (
        "BootSign",
        "What showed in a boot check that the server came up.",
        {
            "LOGIN_PROMPT": "A login prompt on the serial console.",
            "CLOUD_INIT": "The end of cloud-init, or of cloudbase-init, on the serial console.",
            "GUEST_AGENT": "A guest agent that listens.",
        },
    ),
    lifecycle.ServerFailureCode: (
        "ServerFailureCode",
        "Why a server is in ERROR.",
        {
            "IMAGE_UNAVAILABLE": "The host could not read the bytes of the image, or not verify them.",
            "VOLUME_IN_USE": "A volume of the server was in use for too long, for example by a snapshot.",
            "HOST_FULL": "The disk of the host is full.",
            "HYPERVISOR_UNAVAILABLE": "The hypervisor of the host could not start the server.",
            "HOST_UNAVAILABLE": "The host of the server does not answer, or was removed.",
            "INTERNAL": "The gateway failed for an internal reason.",
        },
    ),
    lifecycle.FailureCode: (
        "ImageFailureCode",
        "Why an image is in ERROR.",
        {
            "UNSUPPORTED_FORMAT": "The format of the file is not supported.",
            "FORMAT_MISMATCH": "The file does not have the format that its name or `format` declares.",
            "UNSAFE_IMAGE": "The file refers to other files, or uses features that can't be opened safely.",
            "CORRUPT_IMAGE": "The file is damaged or incomplete.",
            "CHECKSUM_MISMATCH": "The SHA-256 of the file is not the declared one.",
            "TOO_LARGE": "The disk is larger than the gateway accepts.",
            "QUOTA_EXCEEDED": "The project has too little storage left.",
            "UPLOAD_EXPIRED": "No byte arrived for too long.",
            "UPLOAD_ABORTED": "The upload was aborted by `abortUpload`.",
            "UPLOAD_REFUSED": "A part of the upload is not what its signed request allows.",
            "SOURCE_UNAVAILABLE": "The volume could no longer be read, for example because its server stopped.",
            "STORAGE_UNAVAILABLE": "The object store could not write or read the bytes.",
            "DATA_LOST": "The object store has lost the bytes of the image, or contains different ones.",
            "INTERNAL": "The gateway failed for an internal reason.",
        },
    ),
    ImageOrder: (
        "ImageOrderField",
        "What to sort images by.",
        {
            "NAME": "The name, ignoring case.",
            "CREATED_AT": "The time of creation.",
            "SIZE": "The virtual size. An image whose size is not known yet counts as smallest.",
            "STATUS": "The status, in alphabetical order.",
            "TYPE": "The type, in alphabetical order.",
        },
    ),
}


class PartStatus(StrEnum):
    MISSING = "MISSING"
    RECEIVED = "RECEIVED"
    DISCARDED = "DISCARDED"


class OrderDirection(StrEnum):
    ASC = "ASC"
    DESC = "DESC"


class UserErrorCode(StrEnum):
    INVALID = "INVALID"
    NOT_FOUND = "NOT_FOUND"
    FORBIDDEN = "FORBIDDEN"
    CONFLICT = "CONFLICT"
    STALE_REVISION = "STALE_REVISION"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    TOO_LARGE = "TOO_LARGE"
    UNSUPPORTED_FORMAT = "UNSUPPORTED_FORMAT"
    NOT_READY = "NOT_READY"
    IN_USE = "IN_USE"
    BOOT_DISK_TOO_SMALL = "BOOT_DISK_TOO_SMALL"
    WILL_NOT_BOOT = "WILL_NOT_BOOT"
    NO_HYPERVISOR = "NO_HYPERVISOR"
    PROTECTED = "PROTECTED"
    DIFFERENT_ORGANIZATION = "DIFFERENT_ORGANIZATION"
    NOT_TARGET_ADMIN = "NOT_TARGET_ADMIN"


_DESCRIPTIONS[PartStatus] = (
    "PartStatus",
    "Whether a part of an upload has arrived.",
    {
        "MISSING": "The part has not arrived yet.",
        "RECEIVED": "The part has arrived.",
        "DISCARDED": "The upload ended before it was complete. No part of it is kept, and none is accepted.",
    },
)
_DESCRIPTIONS[OrderDirection] = (
    "OrderDirection",
    "Direction in which a list is sorted.",
    {"ASC": "Smallest first.", "DESC": "Largest first."},
)
_DESCRIPTIONS[UserErrorCode] = (
    "UserErrorCode",
    "Kind of an error in `userErrors`.",
    {
        "INVALID": "A value in the input is invalid.",
        "NOT_FOUND": "The object does not exist, or you may not see it.",
        "FORBIDDEN": "You may see the object, but not do this with it.",
        "CONFLICT": "The state of the object, or an earlier request, does not allow the request.",
        "STALE_REVISION": "The object has changed since you read it: its revision is not the expected one.",
        "QUOTA_EXCEEDED": "The request would exceed a limit of the project.",
        "TOO_LARGE": "The size is larger than the gateway accepts.",
        "UNSUPPORTED_FORMAT": "The format of the file is not supported.",
        "NOT_READY": "The object is not in the required status yet.",
        "IN_USE": "Something else uses the object.",
        "BOOT_DISK_TOO_SMALL": "The boot disk is smaller than the image needs; `message` states the minimum.",
        "WILL_NOT_BOOT": "The image is known not to boot; `force: true` launches it anyway.",
        "NO_HYPERVISOR": "No host can run the server: there is none, or none has room.",
        "PROTECTED": "The image is protected against deletion.",
        "DIFFERENT_ORGANIZATION": "The project is in another organization. Sharing across organizations is planned.",
        "NOT_TARGET_ADMIN": "This requires an admin of the project that the image is shared with or offered to.",
    },
)


def register_enums() -> None:
    """Register the vocabulary as GraphQL enums. Called once, when the types are defined."""
    for vocabulary, (name, description, values) in _DESCRIPTIONS.items():
        definition = strawberry.enum(vocabulary, name=name, description=description)
        for value in definition.__strawberry_definition__.values:  # type: ignore[attr-defined]
            value.description = values[value.name]


register_enums()
