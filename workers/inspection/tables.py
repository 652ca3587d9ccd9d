"""Counts how much of a disk its file's tables map to data, for every format. The effort is bounded by the file."""

from collections.abc import Callable

from workers.inspection import vhd, vhd_tables, vhdx, vmdk
from workers.inspection.qcow2 import Qcow2Facts
from workers.inspection.qcow2_tables import Qcow2Tables
from workers.inspection.vmdk_tables import open_tables

Facts = Qcow2Facts | vmdk.VmdkFacts | vhd.VhdFacts | vhdx.VhdxFacts


def mapped(facts: Facts | None, read_at: vhdx.ReadAt, size: int, virtual_size: int, tick: Callable[[], None]) -> int:
    """Bytes of the disk that the tables of a file of `size` bytes map to data.

    Call this before QEMU follows the tables: its duration depends on the tables in the file, not on the size of the
    disk. `tick` is called repeatedly. Raises ImageFailed if data or tables are shared, are outside the file, or exceed
    what the file can hold; and what `read_at` and `tick` raise.
    """
    match facts:
        case Qcow2Facts():
            return Qcow2Tables(facts.header, read_at, size, tick).mapped()
        case vmdk.VmdkFacts():
            return open_tables(read_at, size, virtual_size).mapped(tick)
        case vhdx.VhdxFacts():
            return vhdx.mapped(facts, read_at, size, tick)
        case vhd.VhdFacts(fixed=False):
            return vhd_tables.mapped(read_at, size, virtual_size, tick)
    # A raw disk and a fixed VHD are stored in the file unchanged.
    return virtual_size
