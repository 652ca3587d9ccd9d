"""What the reader prints is accepted only if it is a report."""

import json
from typing import Any

import pytest

from app.boot_readiness.report import BootReadiness, Note, Support
from workers.readiness.validation import InvalidReport, validated

FULL = BootReadiness("debian", "12", virtio_blk=Support.PRESENT, notes=(Note.ENCRYPTED,))


def test_a_report_is_accepted() -> None:
    assert validated(json.dumps(FULL.to_json()).encode()) == FULL


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"garbage",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b"1" * 5000,
        b"NaN",
        b"[" * 60_000,
        b'{"a":' * 12_000,
        json.dumps(FULL.to_json()).encode() + b"x",
        json.dumps(FULL.to_json()).encode() * 2,
        json.dumps(FULL.to_json()).encode() + b" " * 70_000,
    ],
)
def test_what_is_no_report_is_refused(output: bytes) -> None:
    with pytest.raises(InvalidReport):
        validated(output)


@pytest.mark.parametrize(
    "change",
    [
        {"more": "x"},
        {"os_family": ""},
        {"os_family": "Debian"},
        {"os_family": "a" * 65},
        {"os_family": "deb\nian"},
        {"os_family": "debian\n"},
        {"os_family": 1},
        {"os_family": ["debian"]},
        {"os_version": "<b>"},
        {"os_version": "\u0661"},
        {"os_version": {}},
        {"architecture": "x86"},
        {"architecture": ""},
        {"firmware": None},
        {"firmware": "bios"},
        {"virtio_blk": "present"},
        {"virtio_blk": None},
        {"virtio_net": True},
        {"virtio_scsi": 1e400},
        {"cloud_init": ["PRESENT"]},
        {"notes": None},
        {"notes": "ENCRYPTED"},
        {"notes": {"ENCRYPTED": 1}},
        {"notes": ["You have been hacked"]},
        {"notes": ["ENCRYPTED", "ENCRYPTED"]},
        {"notes": [["ENCRYPTED"]]},
        {"notes": ["ENCRYPTED"] * 1000},
    ],
)
def test_a_report_with_anything_else_in_it_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidReport):
        validated(json.dumps({**FULL.to_json(), **change}).encode())


@pytest.mark.parametrize("key", FULL.to_json())
def test_a_report_that_lacks_a_field_is_refused(key: str) -> None:
    with pytest.raises(InvalidReport):
        validated(json.dumps({name: value for name, value in FULL.to_json().items() if name != key}).encode())
