"""How much of a disk the tables of its file map to data, whatever its format; bounded by the file."""

from collections.abc import Callable

from workers.inspection import vhd, vhd_tables, vhdx, vmdk
from workers.inspection.qcow2 import Qcow2Facts
from workers.inspection.qcow2_tables import Qcow2Tables
from workers.inspection.vmdk_tables import open_tables

Facts = Qcow2Facts | vmdk.VmdkFacts | vhd.VhdFacts | vhdx.VhdxFacts


def mapped(facts: Facts | None, read_at: vhdx.ReadAt, size: int, virtual_size: int, tick: Callable[[], None]) -> int:
    """Bytes of the disk that the tables of a file of `size` bytes map to data.

    To be asked before QEMU follows the tables: it takes as long as there are tables in the file, however large the disk
    is. Raises ImageFailed when data or tables are shared, lie outside the file, or are more than it can hold, and what
    `read_at` and `tick`, which is called now and then, raise.
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
    # A raw disk and a fixed VHD lie in the file as they are.
    return virtual_size
