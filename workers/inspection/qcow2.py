"""Decides which qcow2 files are accepted. `workers.qcow2.metadata` knows the layout."""

from dataclasses import dataclass

from app.sizes import counted
from workers.inspection.refusals import (
    CONVERT_FIRST,
    MAKE_WHOLE,
    REPAIR,
    check_virtual_size,
    corrupt,
    unsafe,
    unsupported,
)
from workers.inspection.signatures import Glimpse
from workers.qcow2 import metadata

_BY_ITS_WRITER = "Convert it to a plain qcow2 of version 3 with the program that wrote it and upload the new file."
_VERSION_2_END, _FEATURES_LENGTH = 72, 24


@dataclass(frozen=True, slots=True)
class Qcow2Facts:
    """The header of an accepted qcow2. `bitmaps`: whether it has persistent dirty bitmaps."""

    header: metadata.Header
    bitmaps: bool

    @property
    def dirty(self) -> bool:
        """Whether it was not closed properly, so that its reference counts may be wrong."""
        return bool(self.header.incompatible & metadata.DIRTY)

    @property
    def warnings(self) -> tuple[str, ...]:
        count = self.header.nb_snapshots
        if not count:
            return ()
        dropped = f"{counted(count, 'internal snapshot')} {'was' if count == 1 else 'were'} dropped"
        return (f"{dropped}: only the current state of the disk is kept.",)


def examine(glimpse: Glimpse, max_virtual_size: int) -> Qcow2Facts | None:
    """Read and check the header; None if too little of it has arrived. Raises ImageFailed."""
    if len(glimpse.head) < 112:
        if glimpse.whole_head:
            raise corrupt("The file ends within its qcow2 header.")
        return None
    version = metadata.read_version(glimpse.head)
    if version not in (2, 3):
        raise unsupported(
            f"This is a qcow2 image of version {version}; only versions 2 and 3 are supported.",
            CONVERT_FIRST if version == 1 else _BY_ITS_WRITER,
        )
    header = metadata.read_header(glimpse.head)
    _check_references(header)
    _check_features(header)
    _check_geometry(header, glimpse.size)
    check_virtual_size(header.size, max_virtual_size)
    extensions = metadata.extension_types(glimpse.head, header)
    if metadata.EXTENSION_DATA_FILE in extensions:
        raise unsafe("This qcow2 image keeps its data in another file.", MAKE_WHOLE)
    if metadata.EXTENSION_ENCRYPTION in extensions:
        raise _encrypted()
    return Qcow2Facts(header, metadata.EXTENSION_BITMAPS in extensions)


def with_its_features(head: bytes) -> bytes:
    """The head of an examined qcow2; in version 2, which has no feature fields, their bytes are zeroed."""
    end = _VERSION_2_END + _FEATURES_LENGTH
    return head[:_VERSION_2_END] + bytes(_FEATURES_LENGTH) + head[end:] if metadata.read_version(head) == 2 else head


def _check_references(header: metadata.Header) -> None:
    if header.backing_file_offset:
        raise unsafe("This qcow2 image needs a backing file.", MAKE_WHOLE)
    if header.incompatible & metadata.DATA_FILE:
        raise unsafe("This qcow2 image keeps its data in another file.", MAKE_WHOLE)
    if header.crypt_method:
        raise _encrypted()


def _check_features(header: metadata.Header) -> None:
    if header.incompatible & metadata.CORRUPT:
        raise corrupt("This qcow2 image is marked corrupt.", REPAIR)
    if header.incompatible & metadata.EXTENDED_L2:
        raise unsupported(
            "This qcow2 image has extended L2 entries (option `extended_l2=on`), which are not supported.",
            "Convert it with `qemu-img convert -O qcow2 -o extended_l2=off FILE image.qcow2` and upload the new file.",
        )
    unknown = header.incompatible & ~metadata.KNOWN_FEATURES
    if unknown:
        raise unsupported(
            f"This qcow2 image needs features that are not supported (bits {unknown:#x}).", _BY_ITS_WRITER
        )
    if header.incompatible & metadata.COMPRESSION_TYPE and header.compression_type not in (0, 1):
        raise unsupported("This qcow2 image is compressed by a method that is not supported.", _BY_ITS_WRITER)


def _check_geometry(header: metadata.Header, file_size: int) -> None:
    """Check that the tables are where the specification allows them, and inside the file. Raises ImageFailed."""
    if not 9 <= header.cluster_bits <= 21 or header.refcount_order > 6:
        raise corrupt("The qcow2 header contains an invalid cluster or refcount size.")
    if header.version == 3 and not 104 <= header.header_length <= header.cluster_size:
        raise corrupt("The qcow2 header contains an invalid header length.")
    size = header.cluster_size
    tables = (
        (header.l1_table_offset, 8 * header.l1_size),
        (header.refcount_table_offset, size * header.refcount_table_clusters),
    )
    if any(offset % size for offset, _ in tables) or not header.refcount_table_offset:
        raise corrupt("The qcow2 header names tables that do not begin at a cluster boundary.")
    if any(offset + length > file_size for offset, length in tables):
        raise corrupt("The file is cut off: it ends before the tables that its qcow2 header names.")
    if header.l1_size * size * (size // 8) < header.size:
        raise corrupt("The first table of this qcow2 image is too short for its disk.")


def _encrypted() -> Exception:
    return unsupported(
        "This qcow2 image is encrypted.",
        "Save its passphrase alone in a file named KEY, decrypt it with `qemu-img convert --object "
        "secret,id=key,file=KEY --image-opts driver=qcow2,encrypt.key-secret=key,file.driver=file,file.filename=FILE "
        "-O qcow2 image.qcow2`, and upload the new file.",
    )
