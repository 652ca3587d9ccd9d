"""Undoes a finished conversion in a folder: only the source is left, byte for byte as it was uploaded.

It destroys a result, so only a worker that holds the job and has just renewed its lease may call it.

The steps run backwards. After each of them the disk looks as after a killed conversion, so the next attempt can
continue. If the source itself became the result, it is renamed first: under the name of a source, the finished qcow2
is one whose conversion was interrupted before its last step, and is finished or rolled back
(`in_place.Rewriting.recover`). In the other order, uploaded bytes would have the name of a result and be mistaken for
one. The receipt is deleted last, since only it holds the first sector. A copy is deleted before its receipt: the next
attempt deletes a receipt without a result, but can't use a result without a receipt.
"""

import os
from pathlib import Path

from workers.errors import ReceiptMissing
from workers.folder import receipts
from workers.folder.in_place import Rewriting, held, locked


def undo(source: Path, source_size: int, result: Path) -> None:
    """Delete the result of a conversion of `source`, which has `source_size` uploaded bytes. May be repeated.

    Raises SourceBusy if another attempt holds the source, SourceDamaged, ReceiptMissing, OSError.
    """
    if not result.exists():
        return
    receipt = receipts.read(result)
    if receipt is None:
        raise ReceiptMissing("the result has no receipt that says how it was made")
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
        # The old name must not reappear after a power failure once the bytes have changed.
        for folder in {source.parent, result.parent}:
            receipts.sync_folder(folder)
        Rewriting(fd, source_size, result).roll_back()
