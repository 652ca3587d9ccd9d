"""The catalogue's vocabulary as data: statuses of images and servers, transitions, failures, roles."""

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
    """The current step of an image that is QUEUED or SAVING."""

    AWAITING_UPLOAD = "AWAITING_UPLOAD"
    UPLOADING = "UPLOADING"
    WAITING = "WAITING"
    INSPECTING = "INSPECTING"
    CAPTURING = "CAPTURING"
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
    """The accepted formats. RAW is never detected: it has to be declared."""

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
    """The origin of an image."""

    UPLOAD = "UPLOAD"
    IMAGE = "IMAGE"
    SERVER = "SERVER"
    VOLUME = "VOLUME"
    SNAPSHOT = "SNAPSHOT"


class ShareGrant(StrEnum):
    """What a share allows the members of its project to do. Each grant includes those before it."""

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
    SOURCE_UNAVAILABLE = "SOURCE_UNAVAILABLE"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    DATA_LOST = "DATA_LOST"
    INTERNAL = "INTERNAL"


class ServerStatus(StrEnum):
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    ERROR = "ERROR"


class ServerGoal(StrEnum):
    """What the users of a server want it to be. Its host makes it so. ABSENT: it is deleted."""

    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    ABSENT = "ABSENT"


class ServerFirmware(StrEnum):
    """What starts a server's boot loader."""

    BIOS = "BIOS"
    UEFI = "UEFI"


class BootResult(StrEnum):
    """What a boot check of an image found out. FAILED: no host could run the check."""

    BOOTED = "BOOTED"
    NOT_SEEN = "NOT_SEEN"
    ENDED = "ENDED"
    FAILED = "FAILED"


class BootSign(StrEnum):
    """What shows that a server has booted."""

    LOGIN_PROMPT = "LOGIN_PROMPT"
    CLOUD_INIT = "CLOUD_INIT"
    GUEST_AGENT = "GUEST_AGENT"


class ServerFailureCode(StrEnum):
    """Why a server is in ERROR."""

    IMAGE_UNAVAILABLE = "IMAGE_UNAVAILABLE"
    VOLUME_IN_USE = "VOLUME_IN_USE"
    HOST_FULL = "HOST_FULL"
    HYPERVISOR_UNAVAILABLE = "HYPERVISOR_UNAVAILABLE"
    HOST_UNAVAILABLE = "HOST_UNAVAILABLE"
    INTERNAL = "INTERNAL"


class Aspect(StrEnum):
    """What of an image a change concerns, other than its status."""

    NAME = "NAME"
    OS = "OS"
    ARCHITECTURE = "ARCHITECTURE"
    LABELS = "LABELS"
    PROTECTION = "PROTECTION"
    VISIBILITY = "VISIBILITY"
    UPLOAD = "UPLOAD"
    PROGRESS = "PROGRESS"
    FAILURE = "FAILURE"
    SOURCE = "SOURCE"
    SHA256 = "SHA256"
    BOOT_READINESS = "BOOT_READINESS"
    BOOT_CHECKED = "BOOT_CHECKED"


class ServerAspect(StrEnum):
    """What of a server a change concerns, other than its status."""

    GOAL = "GOAL"
    FAILURE = "FAILURE"


class VolumeAspect(StrEnum):
    """What of a volume a change concerns."""

    SERVER = "SERVER"


class EventKind(StrEnum):
    """Kinds of events. Those without a prefix, from before there were servers, are about images.

    MEMBERS_CHANGED is about no object: processes then re-check who may watch a project.
    """

    CREATED = "CREATED"
    STATUS_CHANGED = "STATUS_CHANGED"
    UPDATED = "UPDATED"
    SHARE_CHANGED = "SHARE_CHANGED"
    DELETED = "DELETED"
    SERVER_CREATED = "SERVER_CREATED"
    SERVER_STATUS_CHANGED = "SERVER_STATUS_CHANGED"
    SERVER_UPDATED = "SERVER_UPDATED"
    SERVER_DELETED = "SERVER_DELETED"
    VOLUME_CREATED = "VOLUME_CREATED"
    VOLUME_UPDATED = "VOLUME_UPDATED"
    VOLUME_DELETED = "VOLUME_DELETED"
    MEMBERS_CHANGED = "MEMBERS_CHANGED"


class JobKind(StrEnum):
    INSPECT_HEAD = "INSPECT_HEAD"
    CONVERT = "CONVERT"
    STREAM_RANGE = "STREAM_RANGE"
    ASSEMBLE = "ASSEMBLE"
    HASH = "HASH"
    CHECK_READINESS = "CHECK_READINESS"
    ERASE = "ERASE"
    SETTLE_SERVER = "SETTLE_SERVER"
    SETTLE_VOLUME = "SETTLE_VOLUME"
    VERIFY_BOOT = "VERIFY_BOOT"
    READ_CONSOLE = "READ_CONSOLE"
    CAPTURE = "CAPTURE"


class JobState(StrEnum):
    WAITING = "WAITING"
    RUNNING = "RUNNING"
    DONE = "DONE"


# The kinds of events that watchers may get: all of them, those about images, and those that end what they are about.
WATCHED = frozenset(EventKind) - {EventKind.MEMBERS_CHANGED}
OF_IMAGES = frozenset(
    {
        EventKind.CREATED,
        EventKind.STATUS_CHANGED,
        EventKind.UPDATED,
        EventKind.SHARE_CHANGED,
        EventKind.DELETED,
    }
)
DELETIONS = frozenset({EventKind.DELETED, EventKind.SERVER_DELETED, EventKind.VOLUME_DELETED})

# The kinds of jobs that only hosts can do: the host of the server or volume, or, to verify a boot, any host.
OF_HOSTS = frozenset(
    {
        JobKind.SETTLE_SERVER,
        JobKind.SETTLE_VOLUME,
        JobKind.VERIFY_BOOT,
        JobKind.READ_CONSOLE,
        JobKind.CAPTURE,
    }
)

# The kinds of jobs of an image that are not cancelled with it: their host has to undo what they did there.
UNDONE = frozenset({JobKind.CAPTURE})

# The kinds of jobs about stored bytes, which several images may share.
OF_BLOBS = frozenset({JobKind.HASH, JobKind.CHECK_READINESS})

# The statuses that may follow each status. A deleted image has a tombstone instead of a status.
TRANSITIONS: dict[ImageStatus, frozenset[ImageStatus]] = {
    ImageStatus.QUEUED: frozenset({ImageStatus.SAVING, ImageStatus.ERROR}),
    ImageStatus.SAVING: frozenset({ImageStatus.ACTIVE, ImageStatus.ERROR}),
    # `images fsck --repair` sets an image to ERROR when its bytes are lost, and back to ACTIVE when they are back.
    ImageStatus.ERROR: frozenset({ImageStatus.SAVING, ImageStatus.ACTIVE}),
    ImageStatus.ACTIVE: frozenset({ImageStatus.ERROR}),
}

# How a project can answer a share: accept or decline an offered one, or later withdraw from an accepted one.
SHARE_ANSWERS: dict[ShareState, frozenset[ShareState]] = {
    ShareState.OFFERED: frozenset({ShareState.ACCEPTED, ShareState.DECLINED}),
    ShareState.ACCEPTED: frozenset({ShareState.DECLINED}),
    ShareState.DECLINED: frozenset(),
}

SETTLED = frozenset({ImageStatus.ACTIVE, ImageStatus.ERROR})


def is_settled(status: ServerStatus, goal: ServerGoal) -> bool:
    """Whether a server is what its users want, or in ERROR."""
    return status == ServerStatus.ERROR or status.value == goal.value


# A role includes those of lower rank: an ADMIN may do everything that a MEMBER may do.
ROLE_RANK = {ProjectRole.READER: 1, ProjectRole.MEMBER: 2, ProjectRole.ADMIN: 3}
