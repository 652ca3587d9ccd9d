"""Take back a finished conversion in a folder: only the source is left, byte for byte what was uploaded.

It destroys a result, so it is for a worker that holds the job, and that has just renewed its lease.

Everything goes backwards, and what a step leaves on the disk is what a killed conversion leaves, too, so that the next
attempt goes on from there. Where the source itself has become the result, its name comes first: with the name of a
source, the finished qcow2 is one whose conversion was cut off before its last step, and is finished or rolled back
(`in_place.Rewriting.recover`). The other way round, uploaded bytes would have the name of a result, and be taken for
one. The receipt comes last, since it alone knows the first sector. A copy goes before its receipt: a receipt without a
result is removed by the next attempt, but a result without a receipt says nothing of itself.
"""

import os
from pathlib import Path

from workers.errors import ReceiptMissing
from workers.folder import receipts
from workers.folder.in_place import Rewriting, held, locked


def undo(source: Path, source_size: int, result: Path) -> None:
    """Free what a conversion of `source`, of `source_size` uploaded bytes, has made. Harmless when done before.

    Raises SourceBusy when another attempt has the source, SourceDamaged, ReceiptMissing, OSError.
    """
    if not result.exists():
        return
    receipt = receipts.read(result)
    if receipt is None:
        raise ReceiptMissing("nothing says how the result was made")
    if receipt.first_sector is None:
        _remove_copy(source, result)
    else:
        _turn_back(source, source_size, result)


def _remove_copy(source: Path, result: Path) -> None:
    with held(source):
        result.unlink(missing_ok=True)
        receipts.sync_folder(result.parent)
        receipts.remove(result)


def _turn_back(source: Path, source_size: int, result: Path) -> None:
    with locked(result, unless=source) as fd:
        if fd is None:
            return
        os.rename(result, source)
        # No name may come back after a power failure once the bytes are other ones.
        for folder in {source.parent, result.parent}:
            receipts.sync_folder(folder)
        Rewriting(fd, source_size, result).roll_back()
