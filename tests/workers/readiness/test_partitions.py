"""The partitions of a disk, also where its tables are damaged or lie."""

import struct
from uuid import UUID

import pytest

from tests.workers.readiness.tables import BIOS_BOOT, GRUB, LINUX, MIB, SECTOR, Bytes, Entry, gpt, mbr, mbr_entry
from workers.readiness.reader.partitions import Table, read_table


def contents(table: Table) -> list[bytes]:
    return [partition.part.read_at(0, 4) for partition in table.partitions]


def test_an_mbr_has_its_partitions_and_says_which_is_active() -> None:
    table = read_table(Bytes(mbr(Entry(b"one!"), Entry(b"two!", active=True))))

    assert contents(table) == [b"one!", b"two!"]
    assert [partition.active for partition in table.partitions] == [False, True]
    assert [partition.kind for partition in table.partitions] == [None, None]
    assert (table.is_gpt, table.code[: len(GRUB)]) == (False, GRUB)


def extended(*, following: int = 8) -> bytes:
    """A disk with an extended partition at 1 MiB, which has two logical ones; the second table is `following`."""
    disk = bytearray(mbr(Entry(bytes(MIB), kind=0x05)))
    start = MIB
    for place, content, more in ((0, b"five", following), (8, b"six!", 0)):
        at = start + place * SECTOR
        disk[at + 446 : at + 462] = mbr_entry(0x83, 1, 1)
        disk[at + 462 : at + 478] = mbr_entry(0x05, more, 2) if more else bytes(16)
        disk[at + 510 : at + 512] = b"\x55\xaa"
        disk[at + SECTOR : at + SECTOR + 4] = content
    return bytes(disk)


def test_logical_partitions_are_found() -> None:
    assert contents(read_table(Bytes(extended()))) == [b"five", b"six!"]


def test_a_chain_of_logical_partitions_that_bites_its_tail_ends() -> None:
    disk = bytearray(extended())
    second = MIB + 8 * SECTOR
    disk[second + 462 : second + 478] = mbr_entry(0x05, 8, 2)

    assert contents(read_table(Bytes(bytes(disk)))) == [b"five"] + [b"six!"] * 63


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_gpt_has_its_partitions_with_their_types(sector: int) -> None:
    table = read_table(Bytes(gpt((BIOS_BOOT, b"core"), (LINUX, b"root"), sector=sector)))

    assert contents(table) == [b"core", b"root"]
    assert [partition.kind for partition in table.partitions] == [UUID(BIOS_BOOT), UUID(LINUX)]
    assert table.is_gpt


def test_a_disk_without_a_table_has_no_partitions() -> None:
    assert read_table(Bytes(bytes(MIB))).partitions == ()


def test_the_first_sector_of_a_file_system_is_no_table() -> None:
    boot = bytearray(b"\x33\xc0\x8e\xd0" * 128)
    boot[510:] = b"\x55\xaa"

    assert read_table(Bytes(bytes(boot) + bytes(MIB))).partitions == ()


def test_partitions_behind_the_end_do_not_count_and_others_end_with_the_disk() -> None:
    disk = bytearray(mbr(Entry(b"one!")))
    disk[462:478] = mbr_entry(0x83, 1 << 30, 1 << 30)
    disk[478:494] = mbr_entry(0x83, 2048, 0xFFFFFFFF)

    table = read_table(Bytes(bytes(disk)))

    assert contents(table) == [b"one!", b"one!"]
    assert table.partitions[1].part.size == len(disk) - MIB
    assert table.partitions[1].part.read_at(1 << 62, 10) == b""


@pytest.mark.parametrize(
    ("offset", "layout", "number"),
    [
        (72, "<Q", 0xFFFFFFFFFFFFFFFF),
        (80, "<I", 0xFFFFFFFF),
        (84, "<I", 0),
        (84, "<I", 0xFFFFFFFF),
        (84, "<I", 4096),
    ],
)
def test_a_gpt_that_lies_about_its_table_is_read_within_bounds(offset: int, layout: str, number: int) -> None:
    disk = bytearray(gpt(*[(LINUX, b"root")] * 3))
    struct.pack_into(layout, disk, SECTOR + offset, number)

    assert len(read_table(Bytes(bytes(disk))).partitions) <= 3


def test_a_gpt_has_at_most_128_partitions_that_are_read() -> None:
    disk = bytearray(gpt((LINUX, b"root")))
    struct.pack_into("<I", disk, SECTOR + 80, 100_000)
    entry = bytes(disk[2 * SECTOR : 2 * SECTOR + 128])
    disk[2 * SECTOR : 2 * SECTOR + 128 * 1000] = entry * 1000

    assert len(read_table(Bytes(bytes(disk))).partitions) == 128


def test_a_partition_of_a_gpt_that_ends_before_it_begins_is_left_out() -> None:
    disk = bytearray(gpt((LINUX, b"root"), (LINUX, b"home")))
    struct.pack_into("<Q", disk, 2 * SECTOR + 40, 0)

    assert contents(read_table(Bytes(bytes(disk)))) == [b"home"]
