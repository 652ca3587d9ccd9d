"""Hints work: running the commands of a hint on the refused file produces an image that is accepted."""

import ast
import bz2
import gzip
import lzma
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import workers
from app.catalog.outcome import Way
from app.errors import ImageFailed
from app.lifecycle import DiskFormat, FailureCode
from tests.workers import foreign
from tests.workers.bombs import qcow2_bomb
from tests.workers.conftest import Impostor, Workbench
from tests.workers.images import MiB, QemuFailed, leave_log, make, patch_number, qemu_img
from tests.workers.test_refusals import (
    archive,
    backed,
    descriptor_only,
    disk,
    flat_extent,
    huge_vhd,
    old_qcow,
    qcow2,
    qcow2_with,
    split_by_qemu,
    split_by_vmware,
    unknown_compression,
    vhd_with,
    vhdx,
    vhdx_of_4k_sectors,
    vmdk,
    vmdk_saying,
    with_data_file,
    with_data_file_extension,
    written,
)
from workers.jobs.turn_clock import too_slow
from workers.limits import Limits

pytestmark = pytest.mark.needs_program("qemu-img")

QCOW2, RAW, VMDK, VHD, VHDX = (DiskFormat(name) for name in ("QCOW2", "RAW", "VMDK", "VHD", "VHDX"))
SMALL = Limits(max_virtual_size=4 * MiB - 512)

Build = Callable[[Path], Path]
Holds = Callable[[Path, Path], None]
COMMAND = re.compile(r"`([^`]+)`")


def in_format(driver: str, **options: str) -> Build:
    return lambda folder: make(disk(folder), folder / "image", driver, **options)


def foreign_image(build: Callable[[Path, Path], Path]) -> Build:
    return lambda folder: build(disk(folder), folder / "image")


def encrypted_by(options: str) -> Build:
    """An encrypted qcow2, next to a file with its passphrase."""

    def build(folder: Path) -> Path:
        (folder / "KEY").write_text("geheim")
        key = f"secret,id=key,file={folder / 'KEY'}"
        chosen = ("-o", f"encrypt.key-secret=key,{options}")
        command = ("convert", "--object", key, "-O", "qcow2", *chosen, str(disk(folder)), str(folder / "image"))
        # For LUKS, qemu-img measures the processor, and gives up while the clock of threads is too coarse for it.
        for _ in range(20):
            try:
                qemu_img(*command)
            except QemuFailed as failed:
                if "Unable to get accurate CPU usage" not in str(failed):
                    raise
            else:
                return folder / "image"
        pytest.fail("qemu-img could not measure the processor in 20 attempts")

    return build


def whole_data_file(folder: Path) -> Path:
    """A qcow2 with a data file that holds a disk."""
    image = with_data_file(folder)
    qemu_img("convert", "-n", "-f", "raw", "-O", "qcow2", str(disk(folder)), str(image))
    return image


def vmdk_child(folder: Path) -> Path:
    parent = make(disk(folder), folder / "parent.vmdk", "vmdk")
    qemu_img("create", "-f", "vmdk", "-F", "vmdk", "-b", str(parent), str(folder / "image"))
    return folder / "image"


def flat_file_of_several(folder: Path) -> Path:
    make(disk(folder), folder / "image.vmdk", "vmdk", subformat="twoGbMaxExtentFlat")
    return folder / "image-f001.vmdk"


def packed_by(pack: Callable[[bytes], bytes]) -> Build:
    return lambda folder: written(folder, pack(disk(folder).read_bytes()))


def packed_with(*command: str) -> Build:
    return packed_by(lambda content: subprocess.run(command, input=content, capture_output=True, check=True).stdout)


def archived(name: str) -> Build:
    """An archive of a disk; the disk itself is moved away."""

    def build(folder: Path) -> Path:
        path = archive(folder, name)
        (folder / "disk.raw").rename(folder.parent / "disk.raw")
        return path

    return build


def ova(folder: Path) -> Path:
    """A virtual machine as VMware exports it."""
    stream = make(disk(folder), folder / "disk.vmdk", "vmdk", subformat="streamOptimized")
    (folder / "machine.ovf").write_text("<Envelope/>")
    with tarfile.open(folder / "image", "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(folder / "machine.ovf", "machine.ovf")
        tar.add(stream, "disk.vmdk")
    stream.unlink()
    return folder / "image"


def ragged(folder: Path) -> Path:
    """A raw disk whose size is not a multiple of a sector."""
    (folder / "disk.raw").write_bytes((b"x" * 1000).ljust(1024, b"\0"))
    return written(folder, b"x" * 1000)


def over_by_a_sector(driver: str) -> Build:
    """A disk that is 512 bytes over the limit; the rest has to be kept."""

    def build(folder: Path) -> Path:
        image = in_format(driver)(folder)
        os.truncate(folder / "disk.raw", SMALL.max_virtual_size)
        return image

    return build


@dataclass(frozen=True)
class Case:
    """A file that is refused with `words` in its message; the file that the hint makes of it, and that file's format.

    `build` leaves the expected disk as disk.raw in its folder, or in the one above.
    """

    name: str
    declared: DiskFormat
    build: Build
    words: str
    made: str = "image.qcow2"
    made_format: DiskFormat = QCOW2
    limits: Limits = field(default_factory=Limits)
    program: str = "qemu-img"


MADE_WHOLE = [
    Case("backing file", QCOW2, backed, "needs a backing file"),
    Case("data file", QCOW2, whole_data_file, "keeps its data in another file"),
    Case("data file extension", QCOW2, with_data_file_extension, "keeps its data in another file"),
    Case("VMDK with a parent", VMDK, vmdk_child, "This VMDK needs a parent"),
    Case("VMDK of other files", VMDK, flat_extent, "takes its data from other files"),
    Case("VMDK with a path", VMDK, vmdk_saying('"image"', '"/vms/image"'), "takes its data from other files"),
    Case("VMDK custom", VMDK, vmdk_saying("monolithicSparse", "custom"), "This VMDK is of the type"),
    Case("VMDK descriptor", VMDK, descriptor_only, "VMDK descriptor without data"),
    Case("VMDK split by QEMU", VMDK, split_by_qemu, "one of the files of a VMDK"),
    Case("VMDK split by VMware", VMDK, split_by_vmware, "one of the files of a VMDK"),
    Case("VMDK split flat", VMDK, flat_file_of_several, ", but its content is not"),
    Case("VMDK SEsparse", VMDK, foreign_image(foreign.sesparse), "VMDK of the SEsparse kind"),
    Case("VMDK COWD", VMDK, foreign_image(foreign.cowd), "VMDK of the COWD kind"),
]
CONVERTED = [
    Case("qcow version 1", QCOW2, old_qcow, "This is a qcow2 image of version"),
    Case("extended L2", QCOW2, lambda f: qcow2(f, extended_l2="on"), "has extended L2 entries"),
    Case("AES", QCOW2, encrypted_by("encrypt.format=aes"), "This qcow2 image is encrypted"),
    Case("LUKS", QCOW2, encrypted_by("encrypt.format=luks,encrypt.iter-time=10"), "This qcow2 image is encrypted"),
    Case("odd descriptor", VMDK, vmdk_saying("# Extent description", "Extents follow"), "is not safe to open"),
    Case("VDI", RAW, in_format("vdi"), "VDI image"),
    Case("QED", RAW, in_format("qed"), "QED image"),
    Case("Parallels", RAW, in_format("parallels"), "Parallels image"),
    Case("Bochs", RAW, foreign_image(foreign.bochs), "Bochs image"),
    Case("DMG", RAW, foreign_image(foreign.dmg), "Apple DMG image"),
    *(
        Case(f"{declared} over the limit", declared, over_by_a_sector(driver), "; the limit is", limits=SMALL)
        for declared, driver in ((QCOW2, "qcow2"), (VMDK, "vmdk"), (VHD, "vpc"), (VHDX, "vhdx"), (RAW, "raw"))
    ),
]
REPAIRED = [
    Case("marked corrupt", QCOW2, qcow2_with(72, ">Q", 2), "marked corrupt", "image"),
    Case("VHDX with a log", VHDX, lambda f: leave_log(vhdx(f)), "was not closed properly", "image", VHDX),
    Case("ragged", RAW, ragged, "not a multiple of 512", "image", RAW, program="truncate"),
]
UNPACKED = [
    Case("gzip", QCOW2, packed_by(gzip.compress), "gzip file", "disk.img", RAW, program="gunzip"),
    Case("xz", RAW, packed_by(lzma.compress), "xz file", "disk.img", RAW, program="unxz"),
    Case("zstd", RAW, packed_with("zstd", "-c"), "zstd file", "disk.img", RAW, program="unzstd"),
    Case("bzip2", RAW, packed_by(bz2.compress), "bzip2 file", "disk.img", RAW, program="bunzip2"),
    Case("lz4", RAW, packed_with("lz4", "-c"), "lz4 file", "disk.img", RAW, program="unlz4"),
    Case("zip", RAW, archived("zip"), "zip archive", "disk.raw", RAW, program="unzip"),
    Case("tar", RAW, archived("tar"), "tar archive", "disk.raw", RAW, program="tar"),
    Case("OVA", RAW, ova, "OVA", "disk.vmdk", VMDK, program="tar"),
]
CASES = [*MADE_WHOLE, *CONVERTED, *REPAIRED, *UNPACKED]

# Tested elsewhere in this file, or in the named file: no case can build a file for these.
REFUSED_OTHERWISE = [
    "share one",  # test_bombs.py
    "of data, which a file of",
    "took longer than allowed",
    "took more memory or time than allowed",
    "Converting this image takes too long",
]


def refused(workbench: Workbench, image: Path, declared: DiskFormat, limits: Limits) -> ImageFailed:
    workbench.put(image)
    with pytest.raises(ImageFailed) as caught:
        workbench.convert(declared, limits)
    return caught.value


def follow(hint: str, image: Path) -> list[str]:
    """Run a hint's commands in the file's folder, with its name for the placeholders; return the commands."""
    names = {"FILE": image.name, "DESCRIPTOR": f"{re.sub('-[fs][0-9]+$', '', image.stem)}.vmdk"}
    commands = COMMAND.findall(hint)
    for command in commands:
        literal = re.sub(r"\b(FILE|DESCRIPTOR)\b", lambda name: names[name[0]], command)
        subprocess.run(literal, shell=True, cwd=image.parent, check=True, timeout=120)  # noqa: S602
    assert commands
    return commands


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder in which the owner of an image has it and its other files."""
    folder = tmp_path / "owner" / "home"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=pytest.mark.needs_program(case.program)) for case in CASES]
)
def test_an_image_is_accepted_once_its_hint_was_followed(
    workbench: Workbench, holds: Holds, home: Path, case: Case
) -> None:
    image = case.build(home)
    expected = home.parent / "disk.raw"
    if not expected.exists():
        expected.hardlink_to(home / "disk.raw")
    failure = refused(workbench, image, case.declared, case.limits)
    assert case.words in failure.message
    workbench.source.unlink()

    commands = follow(failure.hint, image)

    assert {command.split()[0] for command in commands} == {case.program}
    workbench.put(home / case.made)
    workbench.convert(case.made_format, case.limits)
    holds(workbench.result, expected)


@pytest.mark.parametrize("script", ["sleep 1000", "kill -SEGV $$"])
def test_an_image_that_qemu_can_not_finish_is_accepted_once_it_was_converted(
    workbench: Workbench, holds: Holds, home: Path, impostor: Impostor, script: str
) -> None:
    image = vmdk(home, "streamOptimized")
    failure = refused(workbench, image, VMDK, replace(impostor(script), inspect_seconds=0.5))
    assert (failure.code, failure.retriable) == (FailureCode.CORRUPT_IMAGE, True)

    follow(failure.hint, image)

    workbench.put(home / "image.qcow2")
    workbench.convert(QCOW2)
    holds(workbench.result, home / "disk.raw")


def test_what_takes_too_long_to_convert_is_not_copied_once_it_was_converted(
    workbench: Workbench, holds: Holds, home: Path
) -> None:
    image = vmdk(home, "streamOptimized")

    follow(too_slow(image.stat().st_size, lost=3).hint, image)

    workbench.put(home / "image.qcow2")
    assert workbench.convert(QCOW2).way is not Way.COPY
    holds(workbench.result, home / "disk.raw")


def test_a_very_well_compressed_image_is_accepted_once_it_is_compressed_less(workbench: Workbench, home: Path) -> None:
    image = home / "image"
    one_byte = qcow2_bomb(home / "shared", 820 * MiB)
    qemu_img("convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", str(one_byte), str(image))
    failure = refused(workbench, image, QCOW2, Limits())
    assert "of data, which a file of" in failure.message

    follow(failure.hint, image)

    workbench.put(home / "image.qcow2")
    workbench.convert(QCOW2)
    qemu_img("compare", str(image), str(workbench.result))


def test_the_only_data_file_of_a_vmdk_is_accepted_as_raw(workbench: Workbench, holds: Holds, home: Path) -> None:
    make(disk(home), home / "image.vmdk", "vmdk", subformat="monolithicFlat")
    failure = refused(workbench, home / "image-flat.vmdk", VMDK, Limits())
    assert "-flat.vmdk), upload it again as RAW" in failure.hint

    workbench.convert(RAW)

    holds(workbench.result, home / "disk.raw")


NOT_FOR_QEMU = [
    pytest.param(QCOW2, qcow2_with(72, ">Q", 1 << 40), id="unknown feature"),
    pytest.param(QCOW2, qcow2_with(4, ">I", 4), id="qcow2 version 4"),
    pytest.param(QCOW2, unknown_compression, id="unknown compression"),
    pytest.param(VMDK, lambda folder: patch_number(vmdk(folder), 4, "<I", 4), id="VMDK version 4"),
    pytest.param(VHD, vhd_with("fixed", (60, b"\0\0\0\5"), at=-512), id="VHD of type 5"),
    pytest.param(VHD, huge_vhd, id="VHD of 8 EiB"),
    pytest.param(VHDX, vhdx_of_4k_sectors, id="VHDX of 4 KiB sectors"),
]


@pytest.mark.parametrize(("declared", "build"), NOT_FOR_QEMU)
def test_what_qemu_can_not_read_either_is_not_sent_to_it(
    workbench: Workbench, home: Path, declared: DiskFormat, build: Build
) -> None:
    image = build(home)
    driver = "vpc" if declared is VHD else declared.lower()
    read_by_qemu = ["qemu-img", "convert", "-f", driver, "-O", "qcow2", str(image), str(home / "image.qcow2")]
    assert subprocess.run(read_by_qemu, capture_output=True, timeout=60).returncode == 1

    assert COMMAND.findall(refused(workbench, image, declared, Limits()).hint) == []


# --------------------------------------------------------- the hints in the sources

Texts = dict[str, list[str]]


def test_every_hint_with_a_command_is_followed_by_a_test() -> None:
    tried = [*(case.words for case in CASES), *REFUSED_OTHERWISE]
    advising = list(refusals_with_commands())

    assert [message for message in advising if not any(words in message for words in tried)] == []
    assert [words for words in tried if not any(words in message for message in advising)] == []


def refusals_with_commands() -> Iterator[str]:
    """The messages (for a signature: the name) of all failures in the workers whose hint contains a command."""
    trees = {path: ast.parse(path.read_text()) for path in Path(*workers.__path__).rglob("*.py")}
    shared = {name: texts for tree in trees.values() for name, texts in named_texts(tree, {}).items() if name.isupper()}
    for tree in trees.values():
        known = shared | named_texts(tree, shared)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            given = [*call.args, *(keyword.value for keyword in call.keywords)]
            message, *rest = [found for argument in given if (found := texts_of(argument, known))] or [[]]
            if any(COMMAND.search(text) for texts in rest for text in texts):
                yield from message


def named_texts(tree: ast.Module, known: Texts) -> Texts:
    """The texts that are assigned to the names in a module."""
    found: Texts = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                texts = texts_of(value, known | found)
                if texts:
                    found[name] = found.get(name, []) + texts
    return found


def texts_of(node: ast.expr, known: Texts) -> list[str]:
    """The possible texts of an expression, with … for unknown parts; none if it is not a text."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.Name(id=name):
            return known.get(name, [])
        case ast.IfExp(body=one, orelse=other):
            return texts_of(one, known) + texts_of(other, known)
        case ast.JoinedStr(values=parts):
            return ["".join((texts_of(part, known) or ["…"])[0] for part in parts)]
        case ast.FormattedValue(value=value):
            return texts_of(value, known)
    return []
