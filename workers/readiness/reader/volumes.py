"""The logical volumes of LVM, read by libvslvm."""

from collections.abc import Sequence
from typing import Any

import pyvslvm

from workers.readiness.reader.disk import Part

_MOST_VOLUMES = 64


class LogicalVolume:
    """A logical volume as a disk. `group` is what its reader needs, kept alive."""

    def __init__(self, volume: Any, group: Any) -> None:
        self.size = int(volume.size)
        self.identifier = str(volume.identifier)
        self._volume = volume
        self._group = group

    def read_at(self, offset: int, length: int) -> bytes:
        """As Readable says. Raises OSError."""
        length = max(0, min(length, self.size - offset))
        return bytes(self._volume.read_buffer_at_offset(length, offset)) if length else b""


def is_physical_volume(part: Part) -> bool:
    """Whether LVM uses a partition: its label is in one of the first four sectors."""
    head = part.read_at(0, 2048)
    return any(head[place : place + 8] == b"LABELONE" for place in range(0, 2048, 512))


def logical_volumes(physical: Sequence[Part]) -> list[Part]:
    """The logical volumes of the groups that these physical volumes form. Raises OSError and others of libvslvm's."""
    found: dict[str, Part] = {}
    for one in physical:
        try:
            found |= _volumes_of([one])
        except OSError:
            found |= _volumes_of([one, *(other for other in physical if other is not one)])
    return list(found.values())


def _volumes_of(physical: list[Part]) -> dict[str, Part]:
    """The logical volumes, by their identifiers, of the group to which the first physical volume belongs."""
    handle = pyvslvm.handle()
    handle.open_file_object(physical[0])
    handle.open_physical_volume_files_as_file_objects(physical)
    group = handle.get_volume_group()
    found = {}
    for number in range(min(group.number_of_logical_volumes, _MOST_VOLUMES)):
        volume = LogicalVolume(group.get_logical_volume(number), (handle, group, physical))
        found[volume.identifier] = Part(volume, 0, volume.size)
    return found
