"""In a folder, a result that takes more room than there is: not made, or taken back without a trace."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.catalog.outcome import Way
from app.errors import ImageFailed
from app.lifecycle import DiskFormat, FailureCode
from app.sizes import exactly
from tests.workers.conftest import Workbench
from tests.workers.images import MiB, dense_disk, raw_disk
from tests.workers.test_kill_points import KINDS, prepared
from workers.errors import ReceiptMissing, SourceBusy, SourceDamaged
from workers.folder.in_place import held
from workers.folder.pipeline import forget
from workers.folder.undoing import undo
from workers.limits import Limits

pytestmark = pytest.mark.needs_program("qemu-img")

Holds = Callable[[Path, Path], None]


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_that_just_fits_is_made_and_one_byte_less_leaves_the_source_alone(
    workbench: Workbench, holds: Holds, tmp_path: Path, kind: str
) -> None:
    raw, image, declared, limits = prepared(kind, tmp_path)
    workbench.put(image)
    size, before = workbench.source.stat().st_size, workbench.source.read_bytes()
    needed = workbench.convert(declared, limits).stored_size
    undo(workbench.source, size, workbench.result)
    with pytest.raises(ImageFailed) as caught:
        workbench.convert(declared, replaced(limits, needed - 1))
    assert (caught.value.code, caught.value.retriable) == (FailureCode.QUOTA_EXCEEDED, True)
    assert f" needs {exactly(needed)} of image storage" in caught.value.message
    assert workbench.names() == {"source"}
    assert workbench.source.read_bytes() == before
    assert workbench.convert(declared, replaced(limits, needed)).stored_size == needed
    holds(workbench.result, raw)


def replaced(limits: Limits, room: int) -> Limits:
    return Limits(ways=limits.ways, max_stored_size=room)


def test_many_tables_are_no_reason_to_refuse_what_fits(workbench: Workbench, holds: Holds, tmp_path: Path) -> None:
    # A cluster in each of 100 tables: as much again in tables as in data.
    raw = raw_disk(tmp_path / "disk.raw", 50 * 1024 * MiB, [(n * 512 * MiB, 4096) for n in range(100)])
    workbench.put(raw)
    needed = workbench.convert(DiskFormat.RAW).stored_size
    assert needed > 12 * MiB
    undo(workbench.source, raw.stat().st_size, workbench.result)
    assert workbench.convert(DiskFormat.RAW, Limits(max_stored_size=needed)).way is Way.COPY
    holds(workbench.result, raw)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_undone_is_the_upload_again_and_can_be_converted_again(
    workbench: Workbench, holds: Holds, tmp_path: Path, kind: str
) -> None:
    raw, image, declared, limits = prepared(kind, tmp_path)
    workbench.put(image)
    os.chmod(workbench.source, 0o640)
    before, facts = workbench.source.read_bytes(), workbench.source.stat()
    first = workbench.convert(declared, limits)
    for _ in range(2):
        undo(workbench.source, facts.st_size, workbench.result)
        assert workbench.names() == {"source"}
        assert workbench.source.read_bytes() == before
    found = workbench.source.stat()
    assert (found.st_ino, found.st_mode, found.st_uid) == (facts.st_ino, facts.st_mode, facts.st_uid)
    assert found.st_blocks <= facts.st_blocks
    assert workbench.convert(declared, limits) == first
    holds(workbench.result, raw)


def test_where_nothing_was_made_nothing_is_undone(workbench: Workbench, tmp_path: Path) -> None:
    workbench.put(dense_disk(tmp_path / "disk.raw"))
    before = workbench.source.read_bytes()
    undo(workbench.source, 512, workbench.result)
    assert workbench.names() == {"source"}
    assert workbench.source.read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_another_attempt_at_the_same_source_keeps_it_from_being_undone(
    workbench: Workbench, holds: Holds, tmp_path: Path, kind: str
) -> None:
    raw, image, declared, limits = prepared(kind, tmp_path)
    workbench.put(image)
    size = workbench.source.stat().st_size
    done = workbench.convert(declared, limits)
    names = workbench.names()
    with (
        held(workbench.source if done.way is Way.COPY else workbench.result),
        pytest.raises(SourceBusy),
    ):
        undo(workbench.source, size, workbench.result)
    assert workbench.names() == names
    holds(workbench.result, raw)


def test_a_result_of_which_nothing_is_known_is_left_alone(workbench: Workbench, tmp_path: Path) -> None:
    workbench.put(dense_disk(tmp_path / "disk.raw"))
    workbench.convert(DiskFormat.RAW)
    forget(workbench.result)
    with pytest.raises(ReceiptMissing):
        undo(workbench.source, 4 * MiB, workbench.result)
    assert workbench.names() == {"result"}


def test_a_source_that_is_there_is_not_overwritten(workbench: Workbench, holds: Holds, tmp_path: Path) -> None:
    raw = dense_disk(tmp_path / "disk.raw")
    workbench.put(raw)
    workbench.convert(DiskFormat.RAW)
    shutil.copy(raw, workbench.source)
    undo(workbench.source, 4 * MiB, workbench.result)
    assert workbench.source.read_bytes() == raw.read_bytes()
    holds(workbench.result, raw)


def test_a_result_that_is_erased_meanwhile_is_missed(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workbench.put(dense_disk(tmp_path / "disk.raw"))
    workbench.convert(DiskFormat.RAW)
    real = os.open

    def erase_first(path: Any, *arguments: Any) -> int:
        if path == workbench.result:
            workbench.result.unlink(missing_ok=True)
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", erase_first)
    with pytest.raises(SourceDamaged):
        undo(workbench.source, 4 * MiB, workbench.result)


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("raw by reference", ["rename", "fsync", "pwrite", "fsync", "ftruncate", "unlink"]),
        ("copy", ["unlink", "fsync", "unlink"]),
    ],
)
def test_each_step_is_on_the_disk_before_the_next_one_relies_on_it(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, order: list[str]
) -> None:
    _, image, declared, limits = prepared(kind, tmp_path)
    workbench.put(image)
    size = workbench.source.stat().st_size
    workbench.convert(declared, limits)
    done: list[str] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            done.append(name)
            return real(*arguments, **options)

        return call

    for name in set(order):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    undo(workbench.source, size, workbench.result)
    assert done == order
