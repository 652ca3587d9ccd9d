"""What users see of an error that kept a server from starting: a fitting code, advice, and nothing internal."""

import errno

import pytest

from app.errors import ObjectMissing, StoreUnavailable
from app.lifecycle import ServerFailureCode
from workers.errors import QemuMissing
from workers.hypervisor.bases import BaseDamaged
from workers.hypervisor.port import HypervisorError, HypervisorUnavailable, VolumeInUse, VolumeMissing
from workers.jobs.bases import BaseNotReady
from workers.jobs.host_failures import failure_of

CODE = ServerFailureCode


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BaseDamaged("/secret"), CODE.IMAGE_UNAVAILABLE),
        (BaseNotReady("/secret"), CODE.IMAGE_UNAVAILABLE),
        (ObjectMissing("/secret"), CODE.IMAGE_UNAVAILABLE),
        (StoreUnavailable("/secret"), CODE.IMAGE_UNAVAILABLE),
        (VolumeInUse("/secret"), CODE.VOLUME_IN_USE),
        (OSError(errno.ENOSPC, "/secret"), CODE.HOST_FULL),
        (OSError(errno.EDQUOT, "/secret"), CODE.HOST_FULL),
        (OSError(errno.EIO, "/secret"), CODE.HYPERVISOR_UNAVAILABLE),
        (HypervisorUnavailable("/secret"), CODE.HYPERVISOR_UNAVAILABLE),
        (HypervisorError("QEMU: /secret"), CODE.HYPERVISOR_UNAVAILABLE),
        (VolumeMissing("/secret"), CODE.HYPERVISOR_UNAVAILABLE),
        (QemuMissing("/secret"), CODE.HYPERVISOR_UNAVAILABLE),
        (TimeoutError("/secret"), CODE.HYPERVISOR_UNAVAILABLE),
        (RuntimeError("/secret"), CODE.INTERNAL),
    ],
    ids=repr,
)
def test_an_error_has_a_code_that_fits_and_advice(error: Exception, code: ServerFailureCode) -> None:
    failure = failure_of(error)

    assert failure.code == code
    assert failure.message
    assert failure.hint
    assert "secret" not in f"{failure.message} {failure.hint}"
