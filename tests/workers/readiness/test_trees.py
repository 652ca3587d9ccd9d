"""Files in file systems of every kind, by paths with links, and file systems that can't be read."""

from collections.abc import Callable

import pytest

from tests.workers.readiness.file_systems import Files, Link, ext, fat, ntfs, xfs
from tests.workers.readiness.tables import Bytes, physical_volume
from workers.readiness.reader.disk import Part
from workers.readiness.reader.trees import EntryFile, Kind, Tree, Unreadable, kind_of, open_tree
from workers.readiness.reader.volumes import is_physical_volume, logical_volumes

pytestmark = pytest.mark.needs_program("mke2fs", "mkfs.xfs", "mkfs.vfat", "mcopy", "mkntfs")

MIB = 1 << 20
LONG = bytes(range(256)) * 8000
FILES: Files = {
    "usr/lib/os-release": b"ID=debian\n",
    "etc/os-release": Link("../usr/lib/os-release"),
    "absolute": Link("/etc/os-release"),
    "folder": Link("usr/./lib/"),
    "above": Link("../../../etc"),
    "nowhere": Link("nothing/here"),
    "round": Link("about"),
    "about": Link("round"),
    "itself": Link("itself"),
    "deeper": Link("deeper/x"),
    "long": LONG,
    "empty": b"",
    "many": None,
    **{f"many/{number}": b"" for number in range(300)},
}


def part_of(content: bytes) -> Part:
    return Part(Bytes(content), 0, len(content))


def tree_in(content: bytes) -> Tree:
    part = part_of(content)
    kind = kind_of(part)
    assert isinstance(kind, Kind)
    return open_tree(part, kind)


UNIX: dict[str, Callable[[], bytes]] = {
    "ext2": lambda: ext(FILES, kind="ext2"),
    "ext3": lambda: ext(FILES, kind="ext3"),
    "ext4": lambda: ext(FILES),
    "ext4-small-blocks": lambda: ext(FILES, "-b", "1024"),
    "ext4-newest": lambda: ext(FILES, "-O", "metadata_csum_seed,orphan_file,inline_data,casefold"),
    "xfs": lambda: xfs(FILES),
    "xfs-newest": lambda: xfs(FILES, "-m", "bigtime=1,rmapbt=1,reflink=1,inobtcount=1", "-i", "nrext64=1"),
}


@pytest.fixture(scope="module", params=UNIX)
def unix(request: pytest.FixtureRequest) -> Tree:
    return tree_in(UNIX[request.param]())


@pytest.mark.parametrize(
    "path", ["/usr/lib/os-release", "/etc/os-release", "/absolute", "/folder/os-release", "/above/os-release"]
)
def test_links_lead_to_their_files(unix: Tree, path: str) -> None:
    assert unix.read(path) == b"ID=debian\n"
    assert unix.has(path)


@pytest.mark.parametrize(
    "path", ["/nowhere", "/round", "/itself", "/deeper", "/usr/lib/os-release/x", "/no", "/usr/no"]
)
def test_paths_that_lead_nowhere_have_no_file(unix: Tree, path: str) -> None:
    assert not unix.has(path)
    assert unix.read(path) is None
    assert unix.names(path) == []


def test_a_file_is_read_whole_or_up_to_a_limit(unix: Tree) -> None:
    assert unix.read("/long") == LONG
    assert unix.read("/long", 5) == LONG[:5]
    assert unix.read("/empty") == b""


def test_a_folder_has_its_names_and_a_link_its_target(unix: Tree) -> None:
    assert {name for name in unix.names("/many") if name.isdigit()} == {str(number) for number in range(300)}
    assert unix.link("/folder") == "usr/./lib/"
    assert unix.link("/etc/os-release") == "../usr/lib/os-release"
    assert unix.link("/long") is None
    assert unix.link("/no") is None


def test_a_target_that_names_thousands_of_folders_is_given_up() -> None:
    tree = tree_in(ext({"a/b": b"x", "loop": Link("a/../" * 150 + "loop")}))
    assert not tree.has("/loop")


@pytest.fixture(scope="module", params=["fat", "ntfs"])
def plain(request: pytest.FixtureRequest) -> Tree:
    files: Files = {"EFI/Boot/bootx64.efi": b"MZ", "EFI/long name of a file": LONG, "Windows/empty": None}
    return tree_in({"fat": fat, "ntfs": ntfs}[request.param](files))


def test_windows_does_not_care_about_case(plain: Tree) -> None:
    assert plain.read("/efi/BOOT/BOOTX64.EFI") == b"MZ"
    assert plain.read("/EFI/long name of a file") == LONG
    assert plain.has("/windows")
    assert not plain.has("/efi/boot/other.efi")
    assert sorted(name for name in plain.names("/") if not name.startswith("$")) == ["EFI", "Windows"]


def test_a_file_is_read_as_libregf_reads(plain: Tree) -> None:
    file = EntryFile(plain.find("/EFI/long name of a file"))
    assert file.get_size() == len(LONG)
    assert file.seek(-10, 2) == len(LONG) - 10
    assert file.read(100) == LONG[-10:]
    assert (file.seek(1000), file.read(4), file.tell()) == (1000, LONG[1000:1004], 1004)
    assert (file.seek(-4, 1), file.read(2)) == (1000, LONG[1000:1002])
    assert (file.seek(len(LONG) + 5), file.read()) == (len(LONG) + 5, b"")


@pytest.mark.parametrize(
    ("offset", "magic", "found"),
    [
        (0, b"LUKS\xba\xbe\0\2", Unreadable.ENCRYPTED),
        (3, b"-FVE-FS-", Unreadable.ENCRYPTED),
        (65600, b"_BHRfS_M", Unreadable.UNSUPPORTED),
        (4096, b"\xfc\x4e\x2b\xa9", Unreadable.UNSUPPORTED),
        (0, b"anything", None),
    ],
)
def test_what_is_not_read_is_known_by_its_name(offset: int, magic: bytes, found: Unreadable | None) -> None:
    content = bytearray(MIB)
    content[offset : offset + len(magic)] = magic
    assert kind_of(part_of(bytes(content))) is found


def test_logical_volumes_are_disks() -> None:
    root, other = ext(FILES), fat({"file": b"content"})
    part = part_of(physical_volume([("root", root), ("other", other)]))
    assert is_physical_volume(part)
    assert not is_physical_volume(part_of(root))
    volumes = logical_volumes([part])
    assert [kind_of(volume) for volume in volumes] == [Kind.EXT, Kind.FAT]
    assert open_tree(volumes[0], Kind.EXT).read("/absolute") == b"ID=debian\n"
    assert open_tree(volumes[1], Kind.FAT).read("/file") == b"content"
    assert volumes[0].read_at(volumes[0].size, 10) == b""


def test_two_groups_do_not_get_in_each_others_way() -> None:
    content = fat({"file": b"content"})
    parts = [part_of(physical_volume([("one", content)], name=name)) for name in ("first", "second")]
    assert [kind_of(volume) for volume in logical_volumes(parts)] == [Kind.FAT]
