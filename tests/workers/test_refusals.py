"""Everything that must be refused is refused, by its code, with a hint, and nothing is left of the attempt."""

import bz2
import gzip
import hashlib
import io
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.catalog.outcome import Way
from app.errors import ImageFailed
from app.lifecycle import DiskFormat, FailureCode
from tests.workers.conftest import Workbench
from tests.workers.images import (
    KiB,
    MiB,
    dense_disk,
    edit_descriptor,
    edit_vhd_footer,
    leave_log,
    make,
    patch,
    patch_number,
    qemu_img,
    raw_disk,
    scattered_disk,
)
from workers.inspection.inspect import inspect_head
from workers.inspection.vhdx import LOGICAL_SECTOR_SIZE
from workers.limits import Limits

pytestmark = pytest.mark.needs_program("qemu-img")

QCOW2, RAW, VMDK, VHD, VHDX = (DiskFormat(name) for name in ("QCOW2", "RAW", "VMDK", "VHD", "VHDX"))
CORRUPT, UNSAFE = FailureCode.CORRUPT_IMAGE, FailureCode.UNSAFE_IMAGE
UNSUPPORTED, MISMATCH = FailureCode.UNSUPPORTED_FORMAT, FailureCode.FORMAT_MISMATCH
TOO_LARGE = FailureCode.TOO_LARGE

EXBIBYTES = 8 << 60


def disk(folder: Path) -> Path:
    return dense_disk(folder / "disk.raw")


def qcow2(folder: Path, **options: str) -> Path:
    return make(disk(folder), folder / "image", "qcow2", **options)


def vmdk(folder: Path, subformat: str = "monolithicSparse") -> Path:
    return make(disk(folder), folder / "image", "vmdk", subformat=subformat)


def vhd(folder: Path, subformat: str = "dynamic") -> Path:
    return make(disk(folder), folder / "image", "vpc", subformat=subformat, force_size="on")


def vhdx(folder: Path) -> Path:
    return make(disk(folder), folder / "image", "vhdx", block_size="1M")


def backed(folder: Path) -> Path:
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", str(disk(folder)), str(folder / "image"))
    return folder / "image"


def with_data_file(folder: Path) -> Path:
    options = f"data_file={folder / 'data'},data_file_raw=on"
    qemu_img("create", "-f", "qcow2", "-o", options, str(folder / "image"), "4M")
    return folder / "image"


def with_data_file_extension(folder: Path) -> Path:
    """The extension alone, without the feature bit that makes QEMU heed it."""
    return patch(qcow2(folder), 112, struct.pack(">II", 0x44415441, 8) + b"/etc/pwd")


def encrypted(folder: Path) -> Path:
    options = ("-o", "encrypt.format=aes,encrypt.key-secret=key")
    image = folder / "image"
    qemu_img("create", "--object", "secret,id=key,data=geheim", "-f", "qcow2", *options, str(image), "4M")
    return image


def old_qcow(folder: Path) -> Path:
    return make(disk(folder), folder / "image", "qcow")


def descriptor_only(folder: Path) -> Path:
    return make(disk(folder), folder / "image", "vmdk", subformat="monolithicFlat")


def split_by_qemu(folder: Path) -> Path:
    """The first file of a VMDK of two, each with room for a descriptor of its own; that of both is `image.vmdk`."""
    raw = raw_disk(folder / "disk.raw", 3 << 30, [(0, MiB), (5 << 29, MiB)])
    make(raw, folder / "image.vmdk", "vmdk", subformat="twoGbMaxExtentSparse")
    return folder / "image-s001.vmdk"


def split_by_vmware(folder: Path) -> Path:
    """The same without that room: their headers name no place for a descriptor."""
    first = split_by_qemu(folder)
    for extent in (first, folder / "image-s002.vmdk"):
        patch(extent, 28, struct.pack("<QQ", 0, 0))
    return first


def flat_extent(folder: Path) -> Path:
    return edit_descriptor(vmdk(folder), 'SPARSE "image"', 'FLAT "secret.raw" 0')


def two_extents(folder: Path) -> Path:
    return edit_descriptor(vmdk(folder), 'SPARSE "image"', 'SPARSE "image"\nRW 8 SPARSE "secret"')


def no_capacity_of_its_own(folder: Path) -> Path:
    """A header without a size makes QEMU follow the extents that the descriptor names."""
    return patch_number(flat_extent(folder), 12, "<Q", 0)


def footer_of_another_size(folder: Path) -> Path:
    return patch_number(with_footer(folder), -1024 + 12, "<Q", 8)


def with_footer(folder: Path) -> Path:
    """A streamOptimized VMDK whose directory is named by a footer, as VMware's tools write it."""
    image = vmdk(folder, "streamOptimized")
    header = bytearray(image.read_bytes()[:512])
    marker = struct.pack("<QII496x", 1, 0, 3)
    with image.open("ab") as file:
        file.write(marker + header + bytes(512))
    return patch_number(image, 56, "<Q", (1 << 64) - 1)


def vhdx_with_parent(folder: Path) -> Path:
    image = vhdx(folder)
    content = image.read_bytes()
    item = content.index(struct.pack("<I", 1 * MiB) + bytes(4), 2 * MiB)
    return patch_number(image, item + 4, "<I", 2)


def vhdx_of_4k_sectors(folder: Path) -> Path:
    image = vhdx(folder)
    content = image.read_bytes()
    metadata = content.index(b"metadata")
    item = content.index(LOGICAL_SECTOR_SIZE.bytes_le, metadata)
    (place,) = struct.unpack_from("<I", content, item + 16)
    return patch_number(image, metadata + place, "<I", 4096)


def polyglot(folder: Path) -> Path:
    """A qcow2 that is an ISO 9660 disc as well."""
    return patch(qcow2(folder), 0x8001, b"CD001")


def written(folder: Path, content: bytes) -> Path:
    path = folder / "image"
    path.write_bytes(content)
    return path


def archive(folder: Path, name: str) -> Path:
    content = disk(folder).read_bytes()
    packed = io.BytesIO()
    if name == "zip":
        with zipfile.ZipFile(packed, "w") as zipped:
            zipped.writestr("disk.raw", content)
    else:
        with tarfile.open(fileobj=packed, mode="w") as tar:
            member = tarfile.TarInfo("disk.ovf" if name == "ova" else "disk.raw")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return written(folder, packed.getvalue())


def zstd(folder: Path) -> Path:
    return written(folder, b"\x28\xb5\x2f\xfd" + bytes(4092))


def iso(folder: Path) -> Path:
    return patch(disk(folder), 0x8000, b"\x01CD001\x01")


def cut(path: Path, size: int) -> Path:
    return written(path.parent, path.read_bytes()[:size])


def shortened(path: Path, by: int) -> Path:
    return cut(path, path.stat().st_size - by)


def packed(folder: Path, compression: str) -> Path:
    """A qcow2 with compressed clusters; the last one ends with the file."""
    raw, image = written(folder, b"The quick brown fox. " * 200_000), folder / "image.qcow2"
    kind = f"compression_type={compression}"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", kind, str(raw), str(image))
    return image


def qcow2_with(offset: int, layout: str, number: int) -> Callable[[Path], Path]:
    return lambda folder: patch_number(qcow2(folder), offset, layout, number)


def unknown_compression(folder: Path) -> Path:
    return patch_number(patch_number(qcow2(folder), 72, ">Q", 1 << 3), 104, ">B", 7)


def vmdk_saying(before: str, after: str) -> Callable[[Path], Path]:
    return lambda folder: edit_descriptor(vmdk(folder), before, after)


def vhd_with(subformat: str, *edits: tuple[int, bytes], at: int) -> Callable[[Path], Path]:
    return lambda folder: edit_vhd_footer(vhd(folder, subformat), *edits, at=at)


def huge_vhd(folder: Path) -> Path:
    return edit_vhd_footer(vhd(folder), (28, b"win "), (48, struct.pack(">Q", EXBIBYTES)), at=0)


Case = tuple[str, DiskFormat, Callable[[Path], Path], FailureCode, str]

CASES: list[Case] = [
    ("qcow2 with a backing file", QCOW2, backed, UNSAFE, "backing file"),
    ("qcow2 with a data file", QCOW2, with_data_file, UNSAFE, "another file"),
    ("qcow2 with a data file extension", QCOW2, with_data_file_extension, UNSAFE, "another file"),
    ("qcow2 with an unknown feature", QCOW2, qcow2_with(72, ">Q", 1 << 40), UNSUPPORTED, "features"),
    ("qcow version 1", QCOW2, old_qcow, UNSUPPORTED, "version 1"),
    ("qcow2 version 4", QCOW2, qcow2_with(4, ">I", 4), UNSUPPORTED, "version 4"),
    ("qcow2 with extended L2", QCOW2, lambda f: qcow2(f, extended_l2="on"), UNSUPPORTED, "extended_l2"),
    ("qcow2 marked corrupt", QCOW2, qcow2_with(72, ">Q", 2), CORRUPT, "marked corrupt"),
    ("qcow2 of an unknown compression", QCOW2, unknown_compression, UNSUPPORTED, "compressed by"),
    ("AES-encrypted qcow2", QCOW2, encrypted, UNSUPPORTED, "encrypted"),
    ("LUKS-encrypted qcow2", QCOW2, qcow2_with(32, ">I", 2), UNSUPPORTED, "encrypted"),
    ("zlib qcow2 without its last byte", QCOW2, lambda f: shortened(packed(f, "zlib"), 1), CORRUPT, "cut off"),
    ("zstd qcow2 without its last byte", QCOW2, lambda f: shortened(packed(f, "zstd"), 1), CORRUPT, "cut off"),
    ("qcow2 of 2 MiB clusters, short", QCOW2, lambda f: shortened(qcow2(f, cluster_size="2M"), 1), CORRUPT, "cut off"),
    ("qcow2 of 64 KiB clusters, short", QCOW2, lambda f: shortened(qcow2(f), 1), CORRUPT, "cut off"),
    ("VMDK monolithicFlat", VMDK, vmdk_saying("monolithicSparse", "monolithicFlat"), UNSUPPORTED, "monolithicflat"),
    ("VMDK custom", VMDK, vmdk_saying("monolithicSparse", "custom"), UNSUPPORTED, "custom"),
    ("VMDK extent with a slash", VMDK, vmdk_saying('"image"', '"/etc/passwd"'), UNSAFE, "other files"),
    ("VMDK flat extent", VMDK, flat_extent, UNSAFE, "other files"),
    ("VMDK with two extents", VMDK, two_extents, UNSAFE, "other files"),
    ("VMDK without capacity", VMDK, no_capacity_of_its_own, UNSAFE, "other files"),
    ("VMDK with parentCID", VMDK, vmdk_saying("ffffffff", "12345678"), UNSAFE, "parent"),
    ("VMDK with parent name", VMDK, vmdk_saying("ffffffff", 'ffffffff\nparentFileNameHint="b"'), UNSAFE, "parent"),
    ("VMDK descriptor alone", VMDK, descriptor_only, MISMATCH, "descriptor"),
    ("VMDK of several files, by QEMU", VMDK, split_by_qemu, UNSUPPORTED, "one of the files"),
    ("VMDK of several files, by VMware", VMDK, split_by_vmware, UNSUPPORTED, "one of the files"),
    ("VMDK version 4", VMDK, lambda f: patch_number(vmdk(f), 4, "<I", 4), UNSUPPORTED, "version 4"),
    ("VMDK SEsparse", VMDK, lambda f: written(f, b"\xbe\xba\xfe\xca".ljust(1 * MiB, b"\0")), MISMATCH, "SEsparse"),
    ("VMDK COWD", VMDK, lambda f: written(f, b"COWD".ljust(1 * MiB, b"\0")), MISMATCH, "COWD"),
    ("VMDK footer of another capacity", VMDK, footer_of_another_size, UNSAFE, "contradict"),
    ("VMDK stream cut off", VMDK, lambda f: cut(with_footer(f), 3 * MiB), CORRUPT, "cut off"),
    ("VMDK stream cut short", VMDK, lambda f: cut(vmdk(f, "streamOptimized"), 3 * MiB), CORRUPT, "cut off"),
    ("VMDK cut off", VMDK, lambda f: cut(vmdk(f), 3 * MiB), CORRUPT, "cut off"),
    ("VMDK of 8 EiB", VMDK, lambda f: patch_number(vmdk(f), 12, "<Q", EXBIBYTES // 512), TOO_LARGE, "limit is 16 TiB"),
    ("VHD differencing", VHD, vhd_with("dynamic", (60, b"\0\0\0\4"), at=0), UNSAFE, "parent"),
    ("VHD fixed with type differencing", VHD, vhd_with("fixed", (60, b"\0\0\0\4"), at=-512), UNSAFE, "parent"),
    ("VHD of type 5", VHD, vhd_with("dynamic", (60, b"\0\0\0\5"), at=0), UNSUPPORTED, "type 5"),
    ("VHD of 8 EiB", VHD, huge_vhd, TOO_LARGE, "larger"),
    ("VHD fixed, cut in its middle", VHD, lambda f: cut(vhd(f, "fixed"), 3 * MiB), MISMATCH, "complete"),
    ("VHD dynamic, cut off", VHD, lambda f: cut(vhd(f), 3 * MiB), CORRUPT, "cut off"),
    ("VHDX with a parent", VHDX, vhdx_with_parent, UNSAFE, "parent"),
    ("VHDX of 4 KiB sectors", VHDX, vhdx_of_4k_sectors, UNSUPPORTED, "512 bytes"),
    ("VHDX cut off", VHDX, lambda f: cut(vhdx(f), 5 * MiB), CORRUPT, "cut off"),
    ("polyglot", QCOW2, polyglot, UNSAFE, "several formats"),
    ("qcow2 declared raw", RAW, qcow2, MISMATCH, "QCOW2"),
    ("fixed VHD declared raw", RAW, lambda f: vhd(f, "fixed"), MISMATCH, "VHD"),
    ("VMDK declared qcow2", QCOW2, vmdk, MISMATCH, "VMDK"),
    ("raw declared VHD", VHD, disk, MISMATCH, "VHD"),
    ("raw declared qcow2", QCOW2, disk, MISMATCH, "QCOW2"),
    ("VDI declared raw", RAW, lambda f: make(disk(f), f / "image", "vdi"), MISMATCH, "VDI"),
    ("gzip", RAW, lambda f: written(f, gzip.compress(bytes(9999))), MISMATCH, "gunzip"),
    ("gzip declared qcow2", QCOW2, lambda f: written(f, gzip.compress(bytes(9999))), MISMATCH, "gunzip"),
    ("xz", RAW, lambda f: written(f, lzma.compress(bytes(9999))), MISMATCH, "unxz"),
    ("zstd", RAW, zstd, MISMATCH, "unzstd"),
    ("bzip2", RAW, lambda f: written(f, bz2.compress(bytes(9999))), MISMATCH, "bunzip2"),
    ("zip", RAW, lambda f: archive(f, "zip"), MISMATCH, "unzip"),
    ("tar", RAW, lambda f: archive(f, "tar"), MISMATCH, "tar xf"),
    ("OVA", RAW, lambda f: archive(f, "ova"), MISMATCH, "OVA"),
    ("OVA declared VMDK", VMDK, lambda f: archive(f, "ova"), MISMATCH, "OVA"),
    ("ISO", RAW, iso, MISMATCH, "ISO 9660"),
    ("empty", RAW, lambda f: written(f, b""), CORRUPT, "empty"),
    ("empty declared qcow2", QCOW2, lambda f: written(f, b""), CORRUPT, "empty"),
    ("qcow2 cut in its header", QCOW2, lambda f: cut(qcow2(f), 100), CORRUPT, "header"),
    ("qcow2 cut in its tables", QCOW2, lambda f: cut(qcow2(f), 100 * KiB), CORRUPT, "cut off"),
    ("qcow2 cut in its data", QCOW2, lambda f: cut(qcow2(f), 3 * MiB), CORRUPT, "cut off"),
    ("raw of no whole sectors", RAW, lambda f: written(f, b"x" * 1000), CORRUPT, "512"),
    ("qcow2 of zero bytes", QCOW2, qcow2_with(24, ">Q", 0), CORRUPT, "zero"),
    ("qcow2 of 17 TiB", QCOW2, qcow2_with(24, ">Q", 17 << 40), CORRUPT, "too short"),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "build", "code", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_what_must_be_refused_is_refused_and_leaves_nothing(
    workbench: Workbench,
    tmp_path: Path,
    declared: DiskFormat,
    build: Callable[[Path], Path],
    code: FailureCode,
    words: str,
) -> None:
    build(tmp_path).rename(workbench.source)
    before = hashlib.sha256(workbench.source.read_bytes()).digest()
    with pytest.raises(ImageFailed) as caught:
        workbench.convert(declared)
    failure = caught.value
    assert (failure.code, failure.retriable) == (code, False)
    assert words in f"{failure.message} {failure.hint}"
    assert failure.hint
    assert str(tmp_path) not in f"{failure.message} {failure.hint}"
    assert workbench.names() == {"source"}
    assert hashlib.sha256(workbench.source.read_bytes()).digest() == before


def test_a_qcow2_whose_disk_is_over_the_limit_is_refused(workbench: Workbench, tmp_path: Path) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", "-o", "cluster_size=2M", str(image), "17T")
    image.rename(workbench.source)
    with pytest.raises(ImageFailed) as caught:
        workbench.convert(QCOW2)
    assert caught.value.code is TOO_LARGE


@pytest.mark.parametrize(("declared", "build"), [(QCOW2, qcow2), (VMDK, vmdk), (VHD, vhd), (VHDX, vhdx), (RAW, disk)])
def test_the_limit_holds_for_every_format(
    workbench: Workbench, tmp_path: Path, declared: DiskFormat, build: Callable[[Path], Path]
) -> None:
    build(tmp_path).rename(workbench.source)
    with pytest.raises(ImageFailed) as caught:
        workbench.convert(declared, Limits(max_virtual_size=4 * MiB - 512))
    assert caught.value.code is TOO_LARGE


def test_the_refusal_of_a_wrong_checksum_states_the_right_one(workbench: Workbench, tmp_path: Path) -> None:
    disk(tmp_path).rename(workbench.source)
    right = hashlib.sha256(workbench.source.read_bytes()).hexdigest()
    with pytest.raises(ImageFailed) as caught:
        workbench.convert(RAW, sha256="0" * 64)
    assert caught.value.code is FailureCode.CHECKSUM_MISMATCH
    assert right in caught.value.message
    assert workbench.names() == {"source"}


def test_the_original_size_of_a_vhd_does_not_count(
    workbench: Workbench, holds: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    image = edit_vhd_footer(vhd(tmp_path), (40, struct.pack(">Q", EXBIBYTES)), at=0)
    image.rename(workbench.source)
    assert workbench.convert(VHD).virtual_size == 4 * MiB
    holds(workbench.result, tmp_path / "disk.raw")


def test_a_stream_with_an_honest_footer_is_taken(
    workbench: Workbench, holds: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    image = with_footer(tmp_path)
    directory = image.read_bytes()[-1024 + 56 : -1024 + 64]
    assert directory != b"\xff" * 8
    image.rename(workbench.source)
    workbench.convert(VMDK)
    holds(workbench.result, tmp_path / "disk.raw")


def test_a_vhdx_whose_log_has_to_be_replayed_says_so(workbench: Workbench, tmp_path: Path) -> None:
    leave_log(vhdx(tmp_path)).rename(workbench.source)
    with pytest.raises(ImageFailed) as caught:
        workbench.convert(VHDX)
    assert caught.value.code is CORRUPT
    assert "log" in caught.value.message
    assert workbench.names() == {"source"}


# What shows only in the tail of a file, in its tables, or to qemu-img.
SEEN_LATE = {
    "VMDK footer of another capacity",
    "VMDK stream cut off",
    "VMDK stream cut short",
    "VMDK cut off",
    "VHD fixed with type differencing",
    "VHD of 8 EiB",
    "VHD fixed, cut in its middle",
    "VHD dynamic, cut off",
    "VHDX with a parent",
    "VHDX of 4 KiB sectors",
    "VHDX cut off",
    "fixed VHD declared raw",
    "raw declared VHD",
    "zlib qcow2 without its last byte",
    "zstd qcow2 without its last byte",
    "qcow2 of 2 MiB clusters, short",
    "qcow2 of 64 KiB clusters, short",
    "qcow2 cut in its data",
    "qcow2 cut in its tables",
}
REFUSED_EARLY = [case for case in CASES if case[0] not in SEEN_LATE]


@pytest.mark.parametrize(
    ("declared", "build", "code", "words"), [c[1:] for c in REFUSED_EARLY], ids=[c[0] for c in REFUSED_EARLY]
)
def test_most_is_refused_by_the_head_of_what_still_arrives(
    tmp_path: Path, declared: DiskFormat, build: Callable[[Path], Path], code: FailureCode, words: str
) -> None:
    content = build(tmp_path).read_bytes()
    with pytest.raises(ImageFailed) as caught:
        inspect_head(content[: 256 * KiB], declared, len(content))
    assert caught.value.code is code
    assert words in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, 511, 512, 4096, 64 * KiB, 256 * KiB])
@pytest.mark.parametrize(
    ("declared", "driver", "options"),
    [
        (QCOW2, "qcow2", {}),
        (QCOW2, "qcow2", {"compat": "0.10"}),
        (VMDK, "vmdk", {}),
        (VMDK, "vmdk", {"subformat": "streamOptimized"}),
        (VHD, "vpc", {}),
        (VHD, "vpc", {"subformat": "fixed"}),
        (VHDX, "vhdx", {}),
        (RAW, "raw", {}),
    ],
)
def test_no_head_of_a_good_image_is_refused_however_short(
    tmp_path_factory: pytest.TempPathFactory, declared: DiskFormat, driver: str, options: dict[str, str], length: int
) -> None:
    folder = tmp_path_factory.mktemp("images")
    content = make(scattered_disk(folder / "raw"), folder / "image", driver, **options).read_bytes()
    inspect_head(content[:length], declared, len(content))


def test_a_disk_whose_last_sector_looks_like_a_footer_is_what_its_head_says(
    workbench: Workbench, holds: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    raw = patch(disk(tmp_path), -512, b"conectix")
    image = make(raw, tmp_path / "image", "qcow2")
    assert image.read_bytes()[-512:].startswith(b"conectix")
    image.rename(workbench.source)
    assert workbench.convert(QCOW2, Limits(ways=frozenset({Way.COPY}))).detected_format is QCOW2
    holds(workbench.result, raw)


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"image"', '"Büro.vmdk"'.encode("latin-1")),
        ('"image"', '"сервер.vmdk"'.encode()),
        ('"image"', '"服务器.vmdk"'.encode("gbk")),
        # 0x5C, the backslash, is the second byte of the first character.
        ('"image"', '"表計算.vmdk"'.encode("shift_jis")),
        ('"image"', '"功能表.vmdk"'.encode("big5")),
        # 0x85 ends a line as Latin-1 text; before it stands what would be an extent of another file.
        ("# Extent description", b'# \x85RW 8 FLAT "other" 0'),
        ('createType="', 'createType = "'),
        ("RW ", "RW\t"),
        (" SPARSE ", "\tSPARSE\t"),
    ],
)
def test_a_vmdk_is_taken_whatever_its_names_are_written_in(
    workbench: Workbench,
    holds: Callable[[Path, Path], None],
    tmp_path: Path,
    subformat: str,
    before: str,
    after: str | bytes,
) -> None:
    edit_descriptor(vmdk(tmp_path, subformat), before, after).rename(workbench.source)
    assert workbench.convert(VMDK).detected_format is VMDK
    holds(workbench.result, tmp_path / "disk.raw")


def test_a_path_of_windows_in_a_vmdk_is_refused(workbench: Workbench, tmp_path: Path) -> None:
    edit_descriptor(vmdk(tmp_path), '"image"', '"C:\\other.vmdk"').rename(workbench.source)
    with pytest.raises(ImageFailed) as caught:
        workbench.convert(VMDK)
    assert caught.value.code is UNSAFE


def test_a_raw_disk_that_begins_with_text_is_taken(workbench: Workbench, tmp_path: Path) -> None:
    content = b"plain text of a disk\n" * 100
    written(tmp_path, content.ljust(1 * MiB, b"\xff")).rename(workbench.source)
    assert workbench.convert(RAW).virtual_size == 1 * MiB


def test_a_whole_disk_of_one_partition_table_is_taken(workbench: Workbench, tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "disk.raw", 4 * MiB, [(1 * MiB, 3 * MiB)])
    patch(raw, 446, struct.pack("<B3sB3sII", 0x80, b"\1\1\0", 0x83, b"\xfe\xff\xff", 2048, 6144))
    patch(raw, 510, b"\x55\xaa")
    raw.rename(workbench.source)
    assert workbench.convert(RAW).detected_format is RAW
