"""The vocabulary of `app.lifecycle` as GraphQL enums."""

from enum import StrEnum

import strawberry

from app import lifecycle
from app.catalog.images import ImageOrder

_DESCRIPTIONS: dict[type[StrEnum], tuple[str, str, dict[str, str]]] = {
    lifecycle.ImageType: (
        "ImageType",
        "Where an image comes from.",
        {
            "STOCK": "Curated by the provider.",
            "CUSTOM": "Created or imported by a project.",
            "SNAPSHOT": "A point-in-time capture of a volume.",
        },
    ),
    lifecycle.ImageStatus: (
        "ImageStatus",
        "How far an image is. QUEUED becomes SAVING, SAVING becomes ACTIVE; either may end in ERROR.",
        {
            "QUEUED": "Bytes are expected, or wait for a worker.",
            "SAVING": "A worker inspects, converts and stores the bytes.",
            "ACTIVE": "A server can be launched from it.",
            "ERROR": "It did not come to be; `failure` says why and what to do.",
        },
    ),
    lifecycle.ImageVisibility: (
        "ImageVisibility",
        "Who can see an image.",
        {
            "PROJECT": "The members of its project.",
            "SHARED": "Other projects of the organization too.",
            "PUBLIC": "The members of every project.",
        },
    ),
    lifecycle.ImagePhase: (
        "ImagePhase",
        "What is being done to an image that is QUEUED or SAVING.",
        {
            "AWAITING_UPLOAD": "No byte has come yet.",
            "UPLOADING": "Bytes are arriving.",
            "WAITING": "All bytes are there; a worker has yet to take it up.",
            "INSPECTING": "It is found out what the file is and whether it is safe.",
            "CONVERTING": "The qcow2 is being made.",
            "STORING": "The qcow2 is being put into the object store.",
            "VERIFYING": "The qcow2 is checked.",
        },
    ),
    lifecycle.UploadState: (
        "UploadState",
        "What became of an upload.",
        {
            "OPEN": "It takes bytes.",
            "COMPLETED": "All bytes are there, and can't change any more.",
            "ABORTED": "It was given up by abortUpload.",
            "REFUSED": "Its first bytes or one of its parts were refused; the image's `failure` says why.",
            "EXPIRED": "No byte came for too long.",
        },
    ),
    lifecycle.Architecture: (
        "Architecture",
        "The processor that an image is made for.",
        {"X86_64": "64-bit x86.", "AARCH64": "64-bit Arm."},
    ),
    lifecycle.DiskFormat: (
        "DiskFormat",
        "A format of disk images that can be uploaded.",
        {
            "QCOW2": "QEMU's copy-on-write format, version 2 or 3.",
            "RAW": "The disk's bytes as they are. It is never guessed, so it has to be declared.",
            "VMDK": "VMware's format, as one file: monolithicSparse or streamOptimized.",
            "VHD": "Microsoft's older format, dynamic or fixed.",
            "VHDX": "Microsoft's newer format, dynamic or fixed.",
        },
    ),
    lifecycle.ProjectRole: (
        "ProjectRole",
        "What a member may do in a project; each role includes those before it.",
        {
            "READER": "May see and download.",
            "MEMBER": "May create, change and delete images.",
            "ADMIN": "May administer the project.",
        },
    ),
    lifecycle.ShareGrant: (
        "ShareGrant",
        "What the members of a project may do with an image that is shared with it.",
        {
            "LAUNCH": "Launch servers from it, download it, and make copies of it.",
            "LAUNCH_AND_EDIT": "The same, and change its name, operating system and labels.",
        },
    ),
    lifecycle.ShareState: (
        "ShareState",
        "Whether a project has taken an image that is shared with it.",
        {
            "OFFERED": "An admin of the project has yet to accept or decline.",
            "ACCEPTED": "The project sees the image.",
            "DECLINED": "The project does not want it.",
        },
    ),
    lifecycle.FailureCode: (
        "ImageFailureCode",
        "Why an image is in ERROR.",
        {
            "UNSUPPORTED_FORMAT": "The file is of no format that can be converted.",
            "FORMAT_MISMATCH": "The file is not what its name or the declared format says.",
            "UNSAFE_IMAGE": "The file refers to other files or uses what can't be opened safely.",
            "CORRUPT_IMAGE": "The file is damaged or incomplete.",
            "CHECKSUM_MISMATCH": "The file's SHA-256 is not the declared one.",
            "TOO_LARGE": "The disk is larger than what is taken.",
            "QUOTA_EXCEEDED": "The project's storage does not suffice.",
            "UPLOAD_EXPIRED": "No byte came for too long.",
            "UPLOAD_ABORTED": "The upload was given up by abortUpload.",
            "UPLOAD_REFUSED": "A part of the upload is not what its signed request allows.",
            "STORAGE_UNAVAILABLE": "The object store could not take or give the bytes.",
            "DATA_LOST": "The object store has lost the bytes of the image, or holds other ones.",
            "INTERNAL": "Something went wrong on the gateway's side.",
        },
    ),
    ImageOrder: (
        "ImageOrderField",
        "What images are sorted by.",
        {
            "NAME": "The name, without regard to case.",
            "CREATED_AT": "The time of creation.",
            "SIZE": "The virtual size; images whose size is not known yet count as smallest.",
            "STATUS": "The status, in the order of the alphabet.",
            "TYPE": "The type, in the order of the alphabet.",
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
    PROTECTED = "PROTECTED"
    DIFFERENT_ORGANIZATION = "DIFFERENT_ORGANIZATION"
    NOT_TARGET_ADMIN = "NOT_TARGET_ADMIN"


_DESCRIPTIONS[PartStatus] = (
    "PartStatus",
    "Whether a part of an upload has arrived.",
    {
        "MISSING": "It has still to be sent.",
        "RECEIVED": "It is there.",
        "DISCARDED": "The upload ended before it was complete: no part of it is kept, and none is taken.",
    },
)
_DESCRIPTIONS[OrderDirection] = (
    "OrderDirection",
    "Which way a list is sorted.",
    {"ASC": "Least first.", "DESC": "Greatest first."},
)
_DESCRIPTIONS[UserErrorCode] = (
    "UserErrorCode",
    "What kind of mistake an entry of userErrors is about.",
    {
        "INVALID": "A value can't be used as it is.",
        "NOT_FOUND": "There is no such thing, or none that you may see.",
        "FORBIDDEN": "You may see it, but not do this to it.",
        "CONFLICT": "The state of the thing, or an earlier request, stands against it.",
        "STALE_REVISION": "Somebody changed the thing since you read it.",
        "QUOTA_EXCEEDED": "A limit of the project would be overrun.",
        "TOO_LARGE": "The size is beyond what is taken.",
        "UNSUPPORTED_FORMAT": "The file is of no format that can be converted.",
        "NOT_READY": "The thing has to get further first.",
        "PROTECTED": "The image is protected against deletion.",
        "DIFFERENT_ORGANIZATION": "Images can't be shared with other organizations; that is planned.",
        "NOT_TARGET_ADMIN": "It takes an admin of the project that the image is shared with.",
    },
)


def register_enums() -> None:
    """Make GraphQL enums of the vocabulary. Called once, when the types are defined."""
    for vocabulary, (name, description, values) in _DESCRIPTIONS.items():
        definition = strawberry.enum(vocabulary, name=name, description=description)
        for value in definition.__strawberry_definition__.values:  # type: ignore[attr-defined]
            value.description = values[value.name]


register_enums()
