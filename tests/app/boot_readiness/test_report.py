"""The report of the boot readiness check: as JSON, and with advice for each finding."""

import itertools
import re
from dataclasses import replace

import pytest

from app.boot_readiness.hints import NOTES, Part, findings
from app.boot_readiness.report import BootReadiness, Firmware, Note, Support
from app.lifecycle import Architecture

FULL = BootReadiness(
    os_family="rocky",
    os_version="9.4",
    architecture=Architecture.AARCH64,
    firmware=Firmware.BOTH,
    virtio_blk=Support.PRESENT,
    virtio_net=Support.MISSING,
    virtio_scsi=Support.NOT_IN_INITRAMFS,
    cloud_init=Support.DISABLED,
    notes=(Note.ENCRYPTED, Note.NO_KERNEL),
)
FAMILIES = ["debian", "ubuntu", "rocky", "fedora", "sles", "alpine", "arch", "windows", "haiku", None]


@pytest.mark.parametrize("report", [FULL, BootReadiness(), BootReadiness.unknown(*Note)])
def test_a_report_survives_its_json(report: BootReadiness) -> None:
    assert BootReadiness.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (Support.PRESENT, False),
        (Support.UNKNOWN, False),
        (Support.MISSING, True),
        (Support.NOT_IN_INITRAMFS, True),
        (Support.DISABLED, True),
    ],
)
def test_an_image_without_its_disk_driver_will_not_boot(state: Support, expected: bool) -> None:
    others = BootReadiness(virtio_net=Support.MISSING, virtio_scsi=Support.MISSING, cloud_init=Support.MISSING)
    assert replace(others, virtio_blk=state).will_not_boot is expected


def test_what_is_present_needs_no_advice() -> None:
    assert [(finding.part, finding.state) for finding in findings(FULL)] == [
        (Part.VIRTIO_NET, Support.MISSING),
        (Part.VIRTIO_SCSI, Support.NOT_IN_INITRAMFS),
        (Part.CLOUD_INIT, Support.DISABLED),
    ]


@pytest.mark.parametrize(
    ("family", "state"), [*itertools.product(FAMILIES, [state for state in Support if state is not Support.PRESENT])]
)
def test_every_finding_says_what_it_means_and_what_to_do(family: str | None, state: Support) -> None:
    report = BootReadiness(family, None, None, Firmware.UNKNOWN, state, state, state, state)
    found = findings(report)
    assert [finding.part for finding in found] == list(Part)
    for finding in found:
        for text in (finding.message, finding.hint):
            assert text.endswith(".")
            assert not re.search(r"[{}]|None|  ", text.replace("{print", "")), text


@pytest.mark.parametrize(
    ("family", "command"),
    [
        ("debian", "update-initramfs -u -k all"),
        ("ubuntu", "update-initramfs -u -k all"),
        ("rocky", "dracut --force --regenerate-all"),
        ("sles", "dracut --force --regenerate-all"),
        ("alpine", "mkinitfs"),
        ("arch", "mkinitcpio -P"),
        ("haiku", "add virtio_pci, virtio_blk"),
    ],
)
def test_a_driver_gets_into_the_initramfs_by_the_commands_of_its_family(family: str, command: str) -> None:
    report = BootReadiness(family, virtio_blk=Support.NOT_IN_INITRAMFS)
    assert command in findings(report)[0].hint


@pytest.mark.parametrize(
    ("state", "command"),
    [(Support.MISSING, "virtio-win"), (Support.DISABLED, "sc.exe config viostor start= boot")],
)
def test_windows_gets_its_drivers_from_virtio_win(state: Support, command: str) -> None:
    finding = findings(BootReadiness("windows", virtio_blk=state))[0]
    assert command in finding.hint
    assert "viostor" in finding.message


def test_every_note_has_a_text() -> None:
    assert set(NOTES) == set(Note)
    assert all(text.endswith(".") for text in NOTES.values())
