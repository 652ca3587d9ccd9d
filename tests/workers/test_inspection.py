"""Inspection of hostile bytes: it returns a result or a refusal, and never fails otherwise."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import ImageFailed
from app.lifecycle import DiskFormat, FailureCode
from tests.workers.images import KiB, MiB, inspected, make, raw_disk
from workers.inspection.inspect import inspect_head
from workers.inspection.refusals import check_virtual_size
from workers.inspection.reported import check_reported

DRIVERS = {
    DiskFormat.QCOW2: ("qcow2", {}),
    DiskFormat.VMDK: ("vmdk", {}),
    DiskFormat.VHD: ("vpc", {}),
    DiskFormat.VHDX: ("vhdx", {"block_size": "1M"}),
}

# The places of the structures that are inspected: the first sectors, a VHDX's region table and its metadata.
PLACES = st.one_of(
    st.integers(0, 600),
    st.integers(192 * KiB, 192 * KiB + 80),
    st.integers(2 * MiB, 3 * MiB + 256),
    st.integers(-1536, -1),
)
EDITS = st.lists(st.tuples(PLACES, st.binary(min_size=1, max_size=9)), max_size=4)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[DiskFormat, bytes]:
    folder = tmp_path_factory.mktemp("images")
    raw = raw_disk(folder / "raw", 2 * MiB, [(0, 64 * KiB)])
    made = {
        kind: make(raw, folder / driver, driver, **options).read_bytes() for kind, (driver, options) in DRIVERS.items()
    }
    return {**made, DiskFormat.RAW: raw.read_bytes()}


@pytest.mark.needs_program("qemu-img")
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    actual=st.sampled_from(DiskFormat),
    declared=st.sampled_from(DiskFormat),
    same=st.booleans(),
    edits=EDITS,
    cut=st.one_of(st.none(), st.integers(0, 300 * KiB)),
)
def test_whatever_is_damaged_the_answer_is_a_finding_or_a_refusal(
    images: dict[DiskFormat, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    actual: DiskFormat,
    declared: DiskFormat,
    same: bool,
    edits: list[tuple[int, bytes]],
    cut: int | None,
) -> None:
    content = bytearray(images[actual])
    for place, data in edits:
        begin = place % len(content)
        content[begin : begin + len(data)] = data[: len(content) - begin]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[:cut])
    declared = actual if same else declared
    refusals = []
    try:
        assert inspected(path, declared).format is declared
    except ImageFailed as refusal:
        refusals.append(refusal)
    try:
        inspect_head(bytes(content[:cut][: 256 * KiB]), declared, path.stat().st_size)
    except ImageFailed as refusal:
        assert refusals, "a file whose head is refused must be refused as a whole too"
        refusals.append(refusal)
    assert all(refusal.message and refusal.hint for refusal in refusals)


@pytest.mark.parametrize(
    ("size", "code"),
    [
        (0, FailureCode.CORRUPT_IMAGE),
        (1000, FailureCode.CORRUPT_IMAGE),
        (4097 * 512, FailureCode.TOO_LARGE),
    ],
)
def test_a_disk_has_sectors_and_not_too_many(size: int, code: FailureCode) -> None:
    with pytest.raises(ImageFailed) as caught:
        check_virtual_size(size, 4096 * 512)
    assert caught.value.code is code
    check_virtual_size(4096 * 512, 4096 * 512)


@pytest.mark.parametrize(
    ("report", "code"),
    [
        ({"backing-filename": "a"}, FailureCode.UNSAFE_IMAGE),
        ({"full-backing-filename": "/a"}, FailureCode.UNSAFE_IMAGE),
        ({"format-specific": {"data": {"data-file": "a"}}}, FailureCode.UNSAFE_IMAGE),
        ({"encrypted": True}, FailureCode.UNSUPPORTED_FORMAT),
        ({"format-specific": {"data": {"encrypt": {"format": "luks"}}}}, FailureCode.UNSUPPORTED_FORMAT),
        ({"format-specific": {"data": {"corrupt": True}}}, FailureCode.CORRUPT_IMAGE),
        ({"format-specific": {"data": {"create-type": "monolithicFlat"}}}, FailureCode.UNSUPPORTED_FORMAT),
        ({"format-specific": {"data": {"extents": [{"filename": "other"}]}}}, FailureCode.UNSAFE_IMAGE),
        ({"format-specific": {"data": {"extents": [{"filename": "a"}, {"filename": "a"}]}}}, FailureCode.UNSAFE_IMAGE),
        ({"virtual-size": 1 << 62}, FailureCode.TOO_LARGE),
    ],
)  # fmt: skip
def test_what_qemu_reports_of_a_header_is_looked_at_too(report: dict[str, object], code: FailureCode) -> None:
    with pytest.raises(ImageFailed) as caught:
        check_reported({"virtual-size": 1 * MiB, **report}, "a", 1 << 40)
    assert caught.value.code is code


def test_a_report_without_fault_gives_the_size() -> None:
    details = {"create-type": "streamOptimized", "extents": [{"filename": "a"}]}
    assert check_reported({"virtual-size": 1 * MiB, "format-specific": {"data": details}}, "a", 1 << 40) == 1 * MiB


def test_a_head_is_looked_at_no_further_than_it_has_come(tmp_path: Path) -> None:
    inspect_head(b"", DiskFormat.QCOW2, 1 << 30)
    inspect_head(b"QFI\xfb", DiskFormat.QCOW2, 1 << 30)
    with pytest.raises(ImageFailed):
        inspect_head(b"QFI\xfb", DiskFormat.QCOW2, 4)
