"""What events say comes back from their rows as it was."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from app.catalog.feed.details import (
    Created,
    Deleted,
    Detail,
    Failure,
    MembersChanged,
    ShareChanged,
    StatusChanged,
    Updated,
    detail_of,
)
from app.catalog.feed.server_details import (
    ServerCreated,
    ServerDeleted,
    ServerFault,
    ServerStatusChanged,
    ServerUpdated,
    VolumeCreated,
    VolumeDeleted,
    VolumeUpdated,
)
from app.lifecycle import (
    Aspect,
    EventKind,
    FailureCode,
    ImageStatus,
    ServerAspect,
    ServerFailureCode,
    ServerStatus,
    ShareGrant,
    ShareState,
    VolumeAspect,
)
from app.models import Event

FAILURE = Failure(FailureCode.TOO_LARGE, "It is too large.", "", False, datetime(2026, 11, 29, 12, 30, 1, 5, UTC))
FAULT = ServerFault(ServerFailureCode.INTERNAL, "It failed.", "", datetime(2026, 11, 29, 12, 30, 1, 5, UTC))
DETAILS: list[Detail] = [
    Created(),
    Updated(list(Aspect)),
    Updated([]),
    StatusChanged(ImageStatus.QUEUED, ImageStatus.SAVING),
    StatusChanged(ImageStatus.SAVING, ImageStatus.ERROR, FAILURE),
    ShareChanged("shr", "prj", ShareGrant.LAUNCH, ShareState.OFFERED, "a disk", ends_sight=False),
    ShareChanged("shr", "prj", ShareGrant.LAUNCH_AND_EDIT, None, "a disk", ends_sight=True),
    Deleted("gone"),
    ServerCreated(),
    ServerStatusChanged(ServerStatus.STARTING, ServerStatus.RUNNING),
    ServerStatusChanged(ServerStatus.RUNNING, ServerStatus.ERROR, FAULT),
    ServerUpdated(list(ServerAspect)),
    ServerDeleted("gone"),
    VolumeCreated(),
    VolumeUpdated(list(VolumeAspect)),
    VolumeDeleted("gone"),
    MembersChanged(),
]


def stored(detail: Detail) -> Any:
    """The row's JSON, as a database gives it back."""
    return json.loads(json.dumps(detail.to_row()))


@pytest.mark.parametrize("detail", DETAILS, ids=lambda detail: type(detail).__name__)
def test_what_an_event_says_comes_back_from_its_row(detail: Detail) -> None:
    event = Event(kind=detail.kind, feed="prj", subject_id="img", detail=stored(detail))
    assert detail_of(event) == detail


def test_every_kind_of_event_has_its_details() -> None:
    assert {detail.kind for detail in DETAILS} == set(EventKind)
