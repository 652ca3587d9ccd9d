"""What an image can be, what it can become, and why it can fail: the catalogue's vocabulary, as data."""

from enum import StrEnum


class ImageType(StrEnum):
    STOCK = "STOCK"
    CUSTOM = "CUSTOM"
    SNAPSHOT = "SNAPSHOT"


class ImageStatus(StrEnum):
    QUEUED = "QUEUED"
    SAVING = "SAVING"
    ACTIVE = "ACTIVE"
    ERROR = "ERROR"


class ImageVisibility(StrEnum):
    PROJECT = "PROJECT"
    SHARED = "SHARED"
    PUBLIC = "PUBLIC"


class ImagePhase(StrEnum):
    """Where an image that is QUEUED or SAVING stands."""

    AWAITING_UPLOAD = "AWAITING_UPLOAD"
    UPLOADING = "UPLOADING"
    WAITING = "WAITING"
    INSPECTING = "INSPECTING"
    CONVERTING = "CONVERTING"
    STORING = "STORING"
    VERIFYING = "VERIFYING"


class UploadState(StrEnum):
    OPEN = "OPEN"
    COMPLETED = "COMPLETED"
    ABORTED = "ABORTED"
    REFUSED = "REFUSED"
    EXPIRED = "EXPIRED"


class Architecture(StrEnum):
    X86_64 = "X86_64"
    AARCH64 = "AARCH64"


class DiskFormat(StrEnum):
    """The formats taken in. RAW is never guessed: it has to be declared."""

    QCOW2 = "QCOW2"
    RAW = "RAW"
    VMDK = "VMDK"
    VHD = "VHD"
    VHDX = "VHDX"


class ProjectRole(StrEnum):
    READER = "READER"
    MEMBER = "MEMBER"
    ADMIN = "ADMIN"


class SourceKind(StrEnum):
    """Where an image came from."""

    UPLOAD = "UPLOAD"
    IMAGE = "IMAGE"


class ShareGrant(StrEnum):
    """What a share lets the members of its project do; each grant includes those before it."""

    LAUNCH = "LAUNCH"
    LAUNCH_AND_EDIT = "LAUNCH_AND_EDIT"


class ShareState(StrEnum):
    OFFERED = "OFFERED"
    ACCEPTED = "ACCEPTED"
    DECLINED = "DECLINED"


class FailureCode(StrEnum):
    """Why an image is in ERROR."""

    UNSUPPORTED_FORMAT = "UNSUPPORTED_FORMAT"
    FORMAT_MISMATCH = "FORMAT_MISMATCH"
    UNSAFE_IMAGE = "UNSAFE_IMAGE"
    CORRUPT_IMAGE = "CORRUPT_IMAGE"
    CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"
    TOO_LARGE = "TOO_LARGE"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    UPLOAD_EXPIRED = "UPLOAD_EXPIRED"
    UPLOAD_ABORTED = "UPLOAD_ABORTED"
    UPLOAD_REFUSED = "UPLOAD_REFUSED"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    DATA_LOST = "DATA_LOST"
    INTERNAL = "INTERNAL"


class Aspect(StrEnum):
    """What of an image a change concerns, other than its status."""

    NAME = "NAME"
    OS = "OS"
    LABELS = "LABELS"
    PROTECTION = "PROTECTION"
    VISIBILITY = "VISIBILITY"
    UPLOAD = "UPLOAD"
    PROGRESS = "PROGRESS"
    FAILURE = "FAILURE"
    SHA256 = "SHA256"


class EventKind(StrEnum):
    """What the feed tells. MEMBERS_CHANGED is about no image: processes look anew at who may watch a project."""

    CREATED = "CREATED"
    STATUS_CHANGED = "STATUS_CHANGED"
    UPDATED = "UPDATED"
    SHARE_CHANGED = "SHARE_CHANGED"
    DELETED = "DELETED"
    MEMBERS_CHANGED = "MEMBERS_CHANGED"


class JobKind(StrEnum):
    INSPECT_HEAD = "INSPECT_HEAD"
    CONVERT = "CONVERT"
    STREAM_RANGE = "STREAM_RANGE"
    ASSEMBLE = "ASSEMBLE"
    HASH = "HASH"
    ERASE = "ERASE"


class JobState(StrEnum):
    WAITING = "WAITING"
    RUNNING = "RUNNING"
    DONE = "DONE"


# From each status, those that it may become. An image that is gone has a tombstone instead of a status.
TRANSITIONS: dict[ImageStatus, frozenset[ImageStatus]] = {
    ImageStatus.QUEUED: frozenset({ImageStatus.SAVING, ImageStatus.ERROR}),
    ImageStatus.SAVING: frozenset({ImageStatus.ACTIVE, ImageStatus.ERROR}),
    # `images fsck --repair` takes images out of use whose bytes are lost, and back when they are there again.
    ImageStatus.ERROR: frozenset({ImageStatus.SAVING, ImageStatus.ACTIVE}),
    ImageStatus.ACTIVE: frozenset({ImageStatus.ERROR}),
}

# The answers that a project can give to a share: to one that is offered, and later, to give up what it accepted.
SHARE_ANSWERS: dict[ShareState, frozenset[ShareState]] = {
    ShareState.OFFERED: frozenset({ShareState.ACCEPTED, ShareState.DECLINED}),
    ShareState.ACCEPTED: frozenset({ShareState.DECLINED}),
    ShareState.DECLINED: frozenset(),
}

SETTLED = frozenset({ImageStatus.ACTIVE, ImageStatus.ERROR})

# What a role includes: an ADMIN may do whatever a MEMBER may, and so on down.
ROLE_RANK = {ProjectRole.READER: 1, ProjectRole.MEMBER: 2, ProjectRole.ADMIN: 3}


def may_become(before: ImageStatus, after: ImageStatus) -> bool:
    """Whether an image may go from one status to the other."""
    return after in TRANSITIONS[before]
