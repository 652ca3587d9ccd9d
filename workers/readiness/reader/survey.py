"""Surveys a disk: its file systems, the system on it, and whether that is ready to boot."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from app.boot_readiness.report import BootReadiness, Note
from workers.readiness.reader import linux, windows
from workers.readiness.reader.disk import Part, Readable
from workers.readiness.reader.firmware import firmware
from workers.readiness.reader.partitions import read_table
from workers.readiness.reader.trees import Tree, Unreadable, kind_of, open_tree
from workers.readiness.reader.volumes import is_physical_volume, logical_volumes

_MOST_TREES = 64
_NOTES = {Unreadable.ENCRYPTED: Note.ENCRYPTED, Unreadable.UNSUPPORTED: Note.UNSUPPORTED_FILE_SYSTEM}


def survey(disk: Readable) -> BootReadiness:
    """The boot readiness of a disk. Raises nothing because of what is on it."""
    notes: list[Note] = []
    table = read_table(disk)
    parts = [partition.part for partition in table.partitions] or [Part(disk, 0, disk.size)]
    trees = list(_trees([*parts, *_logical_volumes(parts, notes)], notes))
    found = _system(trees, notes)
    return replace(found, firmware=firmware(table, trees), notes=tuple(dict.fromkeys([*found.notes, *notes])))


def _logical_volumes(parts: Sequence[Part], notes: list[Note]) -> Sequence[Part]:
    physical = [part for part in parts if is_physical_volume(part)]
    # libyal raises many kinds of errors, and what can't be read is no error.
    try:
        return logical_volumes(physical)
    except Exception:
        notes.append(Note.DAMAGED_VOLUME_GROUP)
        return ()


def _trees(parts: Sequence[Part], notes: list[Note]) -> Iterator[Tree]:
    for part in parts[:_MOST_TREES]:
        try:
            kind = kind_of(part)
            if isinstance(kind, Unreadable):
                notes.append(_NOTES[kind])
            elif kind is not None:
                yield open_tree(part, kind)
        except Exception:
            notes.append(Note.DAMAGED_FILE_SYSTEM)


def _system(trees: Sequence[Tree], notes: list[Note]) -> BootReadiness:
    """The first system on the disk."""
    roots = [tree for tree in trees if linux.is_linux(tree) or windows.is_windows(tree)]
    if not roots:
        notes.append(Note.NO_SYSTEM)
        return BootReadiness()
    if len(roots) > 1:
        notes.append(Note.SEVERAL_SYSTEMS)
    try:
        return windows.describe(roots[0]) if windows.is_windows(roots[0]) else linux.describe(roots[0], trees)
    except Exception:
        notes.append(Note.DAMAGED_FILE_SYSTEM)
        return BootReadiness()
