"""What users of a server see of an error that kept it from starting: what failed, and what they can do about it."""

import errno

from app.catalog.servers.settling import ServerFailure
from app.errors import StoreError
from app.lifecycle import ServerFailureCode
from workers.errors import QemuError
from workers.hypervisor.bases import BaseDamaged
from workers.hypervisor.port import HypervisorError, VolumeInUse
from workers.jobs.bases import BaseNotReady

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def failure_of(error: Exception) -> ServerFailure:
    """The failure that users see for an error, which itself is for the log."""
    match error:
        case BaseNotReady():
            return ServerFailure(
                ServerFailureCode.IMAGE_UNAVAILABLE,
                "The image has not been verified yet.",
                "Try again with startServer when the SHA-256 of the image is known.",
            )
        case BaseDamaged() | StoreError():
            return ServerFailure(
                ServerFailureCode.IMAGE_UNAVAILABLE,
                "The host could not read the bytes of the image.",
                "Try again with startServer. If it fails again, ask the operator to check the object store.",
            )
        case VolumeInUse():
            return ServerFailure(
                ServerFailureCode.VOLUME_IN_USE,
                "A volume of the server was in use for too long.",
                "Wait until snapshots of its volumes are ACTIVE, then try again with startServer.",
            )
        case OSError(errno=number) if number in _NO_SPACE:
            return ServerFailure(
                ServerFailureCode.HOST_FULL,
                "The disk of the host is full.",
                "Ask the operator to free space, then try again with startServer. Or launch another server, which may "
                "be placed on another host.",
            )
        case HypervisorError() | QemuError() | OSError():
            return ServerFailure(
                ServerFailureCode.HYPERVISOR_UNAVAILABLE,
                "The hypervisor of the host could not start the server.",
                "Try again later with startServer. If it fails again, ask the operator.",
            )
        case _:
            return ServerFailure(
                ServerFailureCode.INTERNAL,
                "The server could not be started because of an internal error in the gateway.",
                "Try again with startServer. If it fails again, ask the operator.",
            )
