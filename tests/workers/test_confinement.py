"""What a qemu process may do: little, for a limited time, and as the user nobody."""

import json
import os
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from app.catalog.outcome import Way
from app.errors import ImageFailed
from app.lifecycle import DiskFormat, FailureCode, ImagePhase
from tests.workers.conftest import WITH_AND_WITHOUT_BUBBLEWRAP, Impostor, Workbench
from tests.workers.images import MiB, dense_disk, make, raw_disk
from workers.errors import Cancelled, NotConfined, QemuFailed, QemuMissing, QemuRefused, QemuStopped, QemuTimedOut
from workers.folder.pipeline import convert
from workers.limits import Bounds, Limits
from workers.qcow2.extents import DoubtfulMap, TooManyExtents
from workers.qemu import img
from workers.qemu.confinement import FileSandbox
from workers.qemu.processes import run, run_for_output

pytestmark = pytest.mark.needs_program("qemu-img")

AMPLE = Bounds(memory=1 << 30, cpu_seconds=20, wall_seconds=20)


@pytest.fixture
def source(workbench: Workbench, tmp_path: Path) -> Path:
    workbench.put(dense_disk(tmp_path / "disk.raw"))
    return workbench.source


def sandbox(source: Path, limits: Limits, cancelled: threading.Event | None = None) -> FileSandbox:
    return FileSandbox(source.parent / "job", source, limits, cancelled or threading.Event())


def inside(source: Path, limits: Limits, command: str) -> str:
    """What a shell says that runs in the place of qemu-img, confined like it."""
    with sandbox(source, limits) as place:
        place.confinement = replace(place.confinement, qemu_img="/bin/sh")
        return run_for_output(place, ["-c", command], Bounds(1 << 30, 20, 20)).decode()


@pytest.mark.parametrize("bubblewrap", WITH_AND_WITHOUT_BUBBLEWRAP)
def test_a_process_is_nobody_when_we_are_root_and_can_gain_nothing(source: Path, bubblewrap: bool) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become someone else")
    limits = Limits(use_bubblewrap=bubblewrap)
    said = inside(source, limits, "id -u; id -g; id -G; /usr/bin/setpriv --dump 2>&1 | grep -i -E 'new_priv|bounding'")
    assert said.splitlines()[:3] == ["65534", "65534", "65534"]
    assert "no_new_privs: 1" in said
    assert "[none]" in said


@pytest.mark.parametrize("bubblewrap", WITH_AND_WITHOUT_BUBBLEWRAP)
def test_a_process_reads_its_source_and_writes_only_to_its_output(source: Path, bubblewrap: bool) -> None:
    command = "test -r source && echo read; (echo x >> source) 2>&- || echo kept; (echo x > new) 2>&- || echo none"
    said = inside(source, Limits(use_bubblewrap=bubblewrap), command + "; head -c0 /dev/null > out/file && ls out")
    wanted = ["read", "kept", "none", "file"]
    assert said.split() == (wanted if os.geteuid() == 0 or bubblewrap else said.split())


@pytest.mark.parametrize("bubblewrap", WITH_AND_WITHOUT_BUBBLEWRAP)
def test_a_process_reads_its_source_whatever_the_umask_and_the_folder_above(source: Path, bubblewrap: bool) -> None:
    # The commands set this umask, and the data folder has this mode.
    before = os.umask(0o077)
    source.parent.chmod(0o700)
    try:
        said = inside(
            source,
            Limits(use_bubblewrap=bubblewrap),
            "head -c4 source | wc -c; head -c0 /dev/null > out/file && ls out",
        )
    finally:
        os.umask(before)

    assert said.split() == ["4", "file"]


@pytest.mark.needs_program("bwrap")
def test_in_bubblewrap_there_is_no_network_and_no_other_file(source: Path) -> None:
    limits = Limits(require_bubblewrap=True)
    said = inside(source, limits, "ls /; test -e /etc/passwd || echo nothing; pwd; ls")
    assert set(said.split()) <= {
        "bin",
        "dev",
        "job",
        "lib",
        "lib32",
        "lib64",
        "sbin",
        "usr",
        "nothing",
        "/job",
        "out",
        "source",
    }
    connecting = """/usr/bin/perl -MSocket -e 'socket(S, PF_INET, SOCK_DGRAM, 0);
        print connect(S, sockaddr_in(9, inet_aton("192.0.2.1"))) ? "out" : "no way"'"""
    said = inside(source, limits, connecting)
    assert said == "no way"


def test_the_environment_is_empty_but_for_the_path(
    source: Path, impostor: Impostor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGES_SECRET", "geheim")
    with sandbox(source, impostor("env")) as place:
        said = run_for_output(place, ["info"], AMPLE).decode()
    assert "geheim" not in said
    allowed = {"PATH", "LC_ALL", "MALLOC_ARENA_MAX", "PWD", "SHLVL", "OLDPWD", "_"}
    assert {line.split("=")[0] for line in said.splitlines()} <= allowed


def test_a_sandbox_that_is_left_over_is_replaced_and_always_removed(source: Path) -> None:
    folder = source.parent / "job"
    (folder / "out").mkdir(parents=True)
    (folder / "out" / "old").touch()
    with sandbox(source, Limits()) as place:
        assert [path.name for path in sorted(place.folder.rglob("*"))] == ["out", "source"]
    assert not folder.exists()
    assert source.stat().st_nlink == 1


def test_a_program_that_is_not_installed_is_named_with_what_to_install(source: Path) -> None:
    before = source.stat().st_mode
    with pytest.raises(QemuMissing, match="qemu-utils"), sandbox(source, Limits(qemu_img="qemu-img-is-not-here")):
        pass
    assert not (source.parent / "job").exists()
    assert source.stat().st_mode == before


@pytest.fixture
def broken_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose kernel refuses namespaces."""
    with tempfile.TemporaryDirectory() as name:
        program = Path(name) / "bwrap"
        program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{name}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture
def no_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that has all programs but bubblewrap."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        for program in ("qemu-img", "qemu-nbd", "setpriv", "prlimit", "ldd"):
            (Path(name) / program).symlink_to(str(shutil.which(program)))
        monkeypatch.setenv("PATH", name)
        yield


@pytest.mark.usefixtures("broken_bubblewrap")
def test_bubblewrap_is_left_out_where_it_does_not_work(source: Path) -> None:
    with sandbox(source, Limits()) as place:
        assert place.confinement.bubblewrap is None


@pytest.mark.parametrize("lacking", ["broken_bubblewrap", "no_bubblewrap"])
def test_nothing_is_run_without_bubblewrap_where_that_is_required(
    source: Path, request: pytest.FixtureRequest, lacking: str
) -> None:
    request.getfixturevalue(lacking)
    with pytest.raises(NotConfined, match="images doctor"), sandbox(source, Limits(require_bubblewrap=True)):
        pass
    assert not (source.parent / "job").exists()


@pytest.mark.needs_program("bwrap")
def test_bubblewrap_confines_a_program_outside_of_the_systems_folders(source: Path, impostor: Impostor) -> None:
    limits = replace(
        impostor("ls /etc /home /root 2>&-; cat source | head -c3 | wc -c; pwd"),
        use_bubblewrap=True,
        require_bubblewrap=True,
    )
    with sandbox(source, limits) as place:
        assert place.confinement.bubblewrap is not None
        assert place.confinement.shown == (str(Path(limits.qemu_img).parent),)
        said = run_for_output(place, ["info"], AMPLE).decode()
    assert said.split() == ["3", "/job"]


@pytest.fixture
def moved_qemu() -> Iterator[Path]:
    """A qemu-img in a folder of its own, with a library of its own in another, to which it is linked by a link."""
    # Short: one of them replaces the name of a library within the program.
    folders = {kind: Path(tempfile.mkdtemp(prefix="", dir="/tmp")) for kind in ("qemu", "library")}
    try:
        for folder in folders.values():
            folder.chmod(0o755)
        library = folders["library"] / "z"
        name = b"libgnutls.so.30"
        found = next(Path("/usr/lib").glob(f"*/{name.decode()}"))
        shutil.copy(found, library)
        program = folders["qemu"] / "real"
        content = Path(str(shutil.which("qemu-img"))).resolve().read_bytes()
        # A library that is named with a slash is loaded from that path.
        assert len(str(library)) <= len(name)
        program.write_bytes(content.replace(name + b"\0", str(library).encode().ljust(len(name), b"\0") + b"\0"))
        program.chmod(0o755)
        link = folders["qemu"] / "bin"
        link.mkdir()
        (link / "qemu-img").symlink_to("../real")
        yield link / "qemu-img"
    finally:
        for folder in folders.values():
            shutil.rmtree(folder)


@pytest.mark.needs_program("bwrap")
def test_bubblewrap_shows_a_program_its_libraries_and_what_its_links_lead_to(
    workbench: Workbench, tmp_path: Path, moved_qemu: Path
) -> None:
    workbench.put(make(dense_disk(tmp_path / "disk.raw"), tmp_path / "image", "vmdk", subformat="streamOptimized"))
    limits = Limits(qemu_img=str(moved_qemu), require_bubblewrap=True)
    with sandbox(workbench.source, limits) as place:
        shown = place.confinement.shown
    assert str(moved_qemu.parents[1]) in shown
    assert [path for path in shown if path.endswith("/z")]

    assert workbench.convert(DiskFormat.VMDK, limits).way is Way.COPY


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo 'qemu-img: no' >&2; exit 1", QemuRefused),
        ("kill -SEGV $$", QemuStopped),
        ("echo 'prlimit: no' >&2; exit 1", QemuFailed),
        ("exit 127", QemuFailed),
        ("echo nonsense", QemuFailed),
        ("echo '[]'", QemuFailed),
        ("echo '{}'", QemuFailed),
        ('echo \'{"virtual-size": "4"}\'', QemuFailed),
        ("while :; do echo 0123456789012345678901234567890123456789012345678901234567890123456789; done", QemuFailed),
    ],
)
def test_whatever_a_process_ends_with_has_a_name(
    source: Path, impostor: Impostor, script: str, error: type[Exception]
) -> None:
    with sandbox(source, impostor(script)) as place, pytest.raises(error):
        img.info(place, img.source("raw"), AMPLE)


def test_a_process_that_hangs_is_stopped_with_all_its_children(source: Path, impostor: Impostor) -> None:
    limits = impostor("sleep 1000 & echo $!; wait")
    pids: list[int] = []
    with sandbox(source, limits) as place, pytest.raises(QemuTimedOut):
        run(place, ["info"], Bounds(1 << 30, 10, wall_seconds=2), lambda piece: pids.append(int(piece)))
    (pid,) = pids
    with suppress(psutil.NoSuchProcess):
        _, alive = psutil.wait_procs([psutil.Process(pid)], timeout=20)
        assert not alive


def test_a_process_that_closes_its_output_and_hangs_is_stopped_too(source: Path, impostor: Impostor) -> None:
    with sandbox(source, impostor("exec >&- 2>&-; sleep 1000")) as place, pytest.raises(QemuTimedOut):
        run(place, ["info"], Bounds(1 << 30, 10, wall_seconds=0.5), lambda piece: None)


def test_an_image_that_qemu_never_finishes_reading_is_refused(
    workbench: Workbench, tmp_path: Path, impostor: Impostor
) -> None:
    workbench.put(make(dense_disk(tmp_path / "disk.raw"), tmp_path / "image", "vmdk"))
    hanging = impostor("sleep 1000")
    with pytest.raises(ImageFailed) as caught:
        workbench.convert(DiskFormat.VMDK, Limits(qemu_img=hanging.qemu_img, use_bubblewrap=False, inspect_seconds=0.3))
    assert (caught.value.code, caught.value.retriable) == (FailureCode.CORRUPT_IMAGE, True)
    assert workbench.names() == {"source"}


def test_a_process_that_runs_is_cancelled_at_once(source: Path, impostor: Impostor) -> None:
    cancelled = threading.Event()

    def on_output(piece: bytes) -> None:
        cancelled.set()

    with sandbox(source, impostor("echo begun; sleep 1000"), cancelled) as place, pytest.raises(Cancelled):
        run(place, ["convert"], AMPLE, on_output)


@pytest.mark.parametrize("bubblewrap", WITH_AND_WITHOUT_BUBBLEWRAP)
def test_a_process_ends_when_we_are_killed(source: Path, bubblewrap: bool) -> None:
    read_end, write_end = os.pipe()

    def tell(piece: bytes) -> None:
        os.write(write_end, piece)

    child = os.fork()
    if child == 0:
        with sandbox(source, Limits(use_bubblewrap=bubblewrap)) as place:
            place.confinement = replace(place.confinement, qemu_img="/bin/sh")
            script = ["-c", "echo begun; exec sleep 1000"]
            run(place, script, Bounds(1 << 30, 10, 100), tell)
        os._exit(1)
    os.close(write_end)
    assert os.read(read_end, 6) == b"begun\n"
    helpers = psutil.Process(child).children(recursive=True)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read_end)
    _, alive = psutil.wait_procs(helpers, timeout=20)
    for one in alive:
        one.kill()
    assert helpers
    assert not alive


def test_memory_is_bounded(source: Path, impostor: Impostor) -> None:
    limits = impostor("exec perl -e 'my $x = \"x\" x (1 << 30)'")
    with sandbox(source, limits) as place, pytest.raises((QemuRefused, QemuStopped)):
        run(place, ["info"], Bounds(256 * MiB, 10, 20), lambda piece: None)


def test_cpu_time_is_bounded(source: Path, impostor: Impostor) -> None:
    with sandbox(source, impostor("while :; do :; done")) as place, pytest.raises(QemuStopped):
        run(place, ["info"], Bounds(1 << 30, 1, 60), lambda piece: None)


@pytest.mark.parametrize(("size", "stopped"), [(4 * MiB, False), (40 * MiB, True)], ids=["in-the-end", "early"])
def test_a_copy_that_needs_more_room_than_the_project_has_is_over_quota(
    workbench: Workbench, tmp_path: Path, size: int, stopped: bool
) -> None:
    workbench.put(dense_disk(tmp_path / "disk.raw", size))
    limits = Limits(ways=frozenset({Way.COPY}), max_stored_size=2 * MiB)
    with pytest.raises(ImageFailed) as caught:
        workbench.convert(DiskFormat.RAW, limits)
    assert (caught.value.code, caught.value.retriable) == (FailureCode.QUOTA_EXCEEDED, True)
    # The size is known only of a result that was written in full.
    assert ("of image storage, but its project has only 2 MiB left" in caught.value.message) is not stopped
    assert workbench.names() == {"source"}


def test_a_copy_that_grows_beyond_its_own_disk_is_no_matter_of_quota(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workbench.put(dense_disk(tmp_path / "disk.raw"))
    bounds = replace(Limits().for_copy(4 * MiB, 4 * MiB, 4 * MiB), file_size=MiB)
    monkeypatch.setattr(Limits, "for_copy", lambda *sizes: bounds)
    with pytest.raises(ImageFailed) as caught:
        workbench.convert(DiskFormat.RAW, Limits(ways=frozenset({Way.COPY}), max_stored_size=5 * MiB))
    assert caught.value.code is FailureCode.TOO_LARGE
    assert workbench.names() == {"source"}


def test_a_copy_can_be_cancelled_in_its_middle(workbench: Workbench, tmp_path: Path) -> None:
    workbench.put(raw_disk(tmp_path / "disk.raw", 2048 * MiB, [(n * 16 * MiB, 1 * MiB) for n in range(64)]))

    def report(phase: ImagePhase, done: int, total: int | None) -> None:
        if phase is ImagePhase.CONVERTING and done:
            workbench.cancelled.set()

    with pytest.raises(Cancelled):
        convert(workbench.task(DiskFormat.RAW), Limits(), report, workbench.cancelled)
    assert workbench.names() == {"source"}


def line(**entry: object) -> str:
    return json.dumps({"depth": 0, "present": True, "zero": False, "data": True, **entry})


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([line(start=0, length=65536, offset=0, depth=1)], DoubtfulMap),
        ([line(start=n << 17, length=65536, offset=n << 17) for n in range(12)], TooManyExtents),
        (["[{nonsense"], QemuFailed),
        (["7"], QemuFailed),
        ([json.dumps({"start": 0})], QemuFailed),
        ([line(start="0", length=65536, offset=0)], QemuFailed),
        ([line(start=-1, length=65536, offset=0)], QemuFailed),
        ([line(start=0, length=1 << 70, offset=0)], QemuFailed),
    ],
)
def test_a_map_that_makes_no_sense_is_an_error(
    source: Path, impostor: Impostor, lines: list[str], error: type[Exception]
) -> None:
    limits = impostor("cat <<'EOF'\n" + "\n".join(lines) + "\nEOF")
    with sandbox(source, limits) as place, pytest.raises(error):
        img.map_extents(place, img.source("raw"), AMPLE, max_extents=10)


def test_only_a_plain_file_counts_as_a_result(source: Path) -> None:
    with sandbox(source, Limits()) as place:
        (place.folder / "out" / "result").symlink_to(source)
        with pytest.raises(OSError, match="symbolic"), place.written():
            pass
        (place.folder / "out" / "result").unlink()
        os.link(source, place.folder / "out" / "result")
        with pytest.raises(OSError, match="plain"), place.written():
            pass
    assert stat.S_ISREG(source.stat().st_mode)
