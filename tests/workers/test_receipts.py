"""The receipt next to a result can be read, by later versions too."""

import hashlib
from pathlib import Path

import pytest

from app.catalog.outcome import Outcome, Way
from app.lifecycle import DiskFormat
from workers.folder import receipts
from workers.folder.receipts import FirstSector, Receipt

COPY = Outcome(Way.COPY, DiskFormat.VMDK, 4096, 1024, 2048, ("Its reference counts are wrong.",))
IN_PLACE = Outcome(Way.REFERENCE, DiskFormat.VHDX, 4096, 1024, 2048)
SECTOR = FirstSector(b"\0" * 512, b"QFI" + b"\1" * 509)

# As the first version wrote them.
_FACTS = b'"virtual_size":4096,"stored_size":1024,"file_size":2048,"warnings":'
OF_COPY = (
    b'{"converted":{"way":"COPY","detected_format":"VMDK",'
    + _FACTS
    + b'["Its reference counts are wrong."]},"first_sector":null}'
)
OF_IN_PLACE = (
    b'{"converted":{"way":"REFERENCE","detected_format":"VHDX",'
    + _FACTS
    + b'[]},"first_sector":{"before":"%s","after":"%s"}}' % (SECTOR.before.hex().encode(), SECTOR.after.hex().encode())
)


@pytest.mark.parametrize(
    ("body", "receipt"),
    [(OF_COPY, Receipt(COPY)), (OF_IN_PLACE, Receipt(IN_PLACE, SECTOR))],
    ids=["copy", "in-place"],
)
def test_receipts_of_every_version_are_read_and_written_alike(tmp_path: Path, body: bytes, receipt: Receipt) -> None:
    old, new = tmp_path / "old.qcow2", tmp_path / "new.qcow2"
    receipts.path_for(old).write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    assert receipts.read(old) == receipt
    receipts.write(new, receipt)
    assert receipts.path_for(new).read_bytes() == receipts.path_for(old).read_bytes()


def test_a_receipt_that_was_cut_off_counts_as_none(tmp_path: Path) -> None:
    result = tmp_path / "disk.qcow2"
    assert receipts.read(result) is None
    receipts.write(result, Receipt(COPY))
    path = receipts.path_for(result)
    path.write_bytes(path.read_bytes()[:-1])
    assert receipts.read(result) is None
