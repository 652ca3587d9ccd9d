"""The file that is uploaded, as the client sees it."""

import asyncio
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from app.client.errors import Misconfigured, UnusableFile
from app.client.generated.enums import Architecture, DiskFormat
from app.client.transfer.disk_file import CHUNK, opened
from app.client.transfer.new_image import NewImage, describe
from tests.support.changed_files import Change, copied_over, replaced, rewritten

QEMU = {
    "QCOW2": ("-f", "qcow2"),
    "VMDK": ("-f", "vmdk"),
    "VHDX": ("-f", "vhdx"),
    "VHD": ("-f", "vpc", "-o", "subformat=dynamic"),
}


def made(path: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", *options, str(path), "8M"], check=True, timeout=60)
    return path


def wish(path: Path, **options: object) -> NewImage:
    given: dict[str, object] = {
        "name": None,
        "format": DiskFormat.RAW,
        "architecture": Architecture.X86_64,
        "os": (None, None),
        "labels": (),
        "sha256": None,
        "checksum": False,
    }
    with opened(path) as disk:
        return describe(disk, **(given | options))  # type: ignore[arg-type]


def with_name(folder: Path, name: bytes) -> Path:
    path = folder / os.fsdecode(name)
    path.write_bytes(b"x")
    return path


@pytest.mark.needs_program("qemu-img")
@pytest.mark.parametrize("format", QEMU)
def test_the_format_is_told_by_the_bytes_where_the_name_does_not(tmp_path: Path, format: str) -> None:
    with opened(made(tmp_path / "disk.img", *QEMU[format])) as disk:
        assert disk.format() == format


@pytest.mark.needs_program("qemu-img")
def test_a_fixed_vhd_is_told_by_its_footer(tmp_path: Path) -> None:
    with opened(made(tmp_path / "disk.bin", "-f", "vpc", "-o", "subformat=fixed")) as disk:
        assert disk.format() == "VHD"


@pytest.mark.parametrize("ending", ["qcow2", "raw", "vmdk", "vhd", "vhdx", "VMDK"])
def test_the_ending_goes_before_the_bytes(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"disk.{ending}"
    path.write_bytes(b"QFI\xfb")

    with opened(path) as disk:
        assert disk.format() == ending.upper()


@pytest.mark.parametrize("content", [b"", b"Q", bytes(4096)])
def test_raw_is_never_guessed_but_asked_for(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(content)

    with pytest.raises(Misconfigured) as refused:
        wish(path, format=None)
    assert "--format" in str(refused.value.hint)
    assert wish(path, format=DiskFormat.RAW).format == "RAW"


async def read(path: Path, offset: int, length: int) -> list[bytes]:
    with opened(path) as disk:
        return [chunk async for chunk in disk.chunks(offset, length)]


def test_bytes_are_read_in_pieces_from_where_they_are(tmp_path: Path) -> None:
    content = os.urandom(3 * CHUNK)
    path = tmp_path / "disk.raw"
    path.write_bytes(content)

    chunks = asyncio.run(read(path, 10, 2 * CHUNK + 1))

    assert b"".join(chunks) == content[10 : 2 * CHUNK + 11]
    assert max(map(len, chunks)) <= CHUNK
    with opened(path) as disk:
        counts: list[int] = []
        assert disk.sha256(counts.append) == hashlib.sha256(content).hexdigest()
        assert sum(counts) == len(content)


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1000))

    with opened(path) as disk:
        disk.require_unchanged()
        os.truncate(path, 500)
        with pytest.raises(UnusableFile, match="changed"):
            disk.require_unchanged()
        with pytest.raises(UnusableFile, match="changed"):
            disk.sha256(lambda _count: None)


@pytest.mark.parametrize("change", [copied_over, rewritten])
def test_a_change_that_keeps_size_and_mtime_is_noticed(tmp_path: Path, change: Change) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1000))
    before = path.stat()

    with opened(path) as disk:
        change(path, os.urandom(1000))
        with pytest.raises(UnusableFile, match="changed"):
            disk.require_unchanged()

    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("change", [copied_over, replaced, rewritten])
def test_a_file_that_was_changed_is_another_one(tmp_path: Path, change: Change) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1000))
    with opened(path) as before, opened(path) as same:
        assert before.state == same.state
        change(path, os.urandom(1000))
        with opened(path) as after:
            assert (after.size, after.state.modified) == (before.size, before.state.modified)
            assert after.state != before.state


def test_what_is_said_about_the_bytes_does_not_make_another_wish(tmp_path: Path) -> None:
    path = with_name(tmp_path, b"disk")
    first = wish(path, format=DiskFormat.RAW, sha256="ab" * 32)
    path.write_bytes(b"longer")
    second = wish(path, format=DiskFormat.QCOW2, sha256="cd" * 32)

    assert first.identity() == second.identity() != wish(path, name="other").identity()
    assert first.content() != second.content()


def test_only_regular_files_that_can_be_read_are_taken(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "missing"):
        with pytest.raises(UnusableFile, match=str(path)), opened(path):
            pass


def test_an_image_is_called_as_its_file_without_the_ending(tmp_path: Path) -> None:
    assert wish(with_name(tmp_path, b"ubuntu-24.04.vmdk")).name == "ubuntu-24.04"
    assert wish(with_name(tmp_path, b".hidden")).name == ".hidden"


def test_file_names_that_are_no_proper_text_still_give_one(tmp_path: Path) -> None:
    hostile = wish(with_name(tmp_path, b"a\n\x1b[2J\xff.raw"))

    assert hostile.name == "a__[2J\ufffd"
    assert hostile.file_name == "a\n\x1b[2J\ufffd.raw"
    assert len(wish(with_name(tmp_path, b"n" * 255)).name) == 255


def test_labels_and_operating_systems_become_input(tmp_path: Path) -> None:
    new = wish(with_name(tmp_path, b"disk.raw"), name="web", os=("ubuntu", "24.04"), labels=["a=1", "b=x=y", "c="])

    assert new.as_input("prj_1", "ab" * 32).model_dump(by_alias=True, exclude_unset=True) == {
        "projectId": "prj_1",
        "name": "web",
        "architecture": "X86_64",
        "os": {"family": "ubuntu", "version": "24.04"},
        "labels": [{"key": "a", "value": "1"}, {"key": "b", "value": "x=y"}, {"key": "c", "value": ""}],
        "source": {"upload": {"fileName": "disk.raw", "size": 1, "format": "RAW", "sha256": "ab" * 32}},
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"os": (None, "24.04")}, "--os"),
        ({"sha256": "x", "checksum": True}, "--checksum"),
        ({"labels": ["nothing"]}, "nothing"),
        ({"labels": ["=value"]}, "=value"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        wish(with_name(tmp_path, b"disk.raw"), **options)
