"""What all tests share: how a test says which programs of the machine it needs."""

import gc
import os
import shutil
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest
import structlog

from tests.order import sort_files
from tests.servers.minio import Minio, minio_program
from tests.servers.postgresql import PostgreSQL, programs
from tests.servers.redis import Redis
from tests.servers.versitygw import Versitygw, versitygw_program
from tests.support.tiny_linux import PATH, CannotBuild, TinyLinux

# Program and the Debian package that brings it.
PACKAGES = {
    "bunzip2": "bzip2",
    "bwrap": "bubblewrap",
    "chromium": "chromium",
    "curl": "curl",
    "docker-compose": "docker-compose",
    "gunzip": "gzip",
    "jq": "jq",
    "mcopy": "mtools",
    "mke2fs": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mkfs.xfs": "xfsprogs",
    "mkntfs": "ntfs-3g",
    "mount": "mount",
    "node": "nodejs",
    "postgres": "postgresql",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "redis-server": "redis-server",
    "tar": "tar",
    "truncate": "coreutils",
    "unlz4": "lz4",
    "unxz": "xz-utils",
    "unzip": "unzip",
    "unzstd": "zstd",
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "needs_program(*names): skips where one of the programs is missing or can't work; fails there when CI is true",
    )
    # A client then reads a certificate authority when it needs it. Each client that a test makes, also one of HTTP
    # alone, would otherwise read all of them, which takes longer than most requests.
    os.environ.pop("SSL_CERT_FILE", None)
    os.environ["SSL_CERT_DIR"] = ssl.get_default_verify_paths().openssl_capath
    # As configure_logs does where no one watches: the default formats each traceback for half a second.
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    # Until all tests are collected, nearly nothing is garbage.
    gc.disable()
    # A shell starts what runs in its background with SIGINT ignored, and children inherit that: tests send it to them.
    if threading.current_thread() is threading.main_thread():
        for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    sort_files(items)


def pytest_collection_finish() -> None:
    # Thousands of tests and all their modules stay until the end: the collector need not visit them again and again.
    gc.freeze()
    # A test leaves few cycles. With the default, the collector takes a tenth of the time of most tests.
    gc.set_threshold(50_000, 10, 10)
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    require_programs([name for marker in item.iter_markers("needs_program") for name in marker.args])


def require_programs(needed: Sequence[str]) -> None:
    """Skip the test when one of the programs is not on PATH, or can't work here; fail it there when CI is true."""
    missing = [name for name in needed if shutil.which(name, path=PATH) is None]
    if missing:
        packages = " ".join(sorted({PACKAGES[name] for name in missing}))
        do_without(f"needs {', '.join(missing)}: apt-get install {packages}")
    if "bwrap" in needed and (complaint := complaint_of_bubblewrap()):
        do_without(f"needs bubblewrap to make namespaces (docs/operating.md, What confines qemu), but: {complaint}")


@cache
def complaint_of_bubblewrap() -> str:
    """What bubblewrap says where it can't make namespaces, as in most containers; empty where it can."""
    command = ["bwrap", "--unshare-pid", "--unshare-net", "--dev-bind", "/", "/", "--tmpfs", "/mnt", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stderr.strip() if done.returncode else ""


def do_without(reason: str) -> NoReturn:
    """Skip the test, or fail it where CI is true."""
    # A continuous integration that skips shows green for what it never tried.
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A PostgreSQL for all tests of a run."""
    if programs() is None:
        require_programs(["postgres"])
    with PostgreSQL(tmp_path_factory.mktemp("postgresql"), fsync=False) as server:
        yield server


@pytest.fixture(scope="module")
def postgresql(postgresql_server: PostgreSQL) -> Iterator[PostgreSQL]:
    """A PostgreSQL for the tests of a module, each of which makes a database of its own; nobody kills it."""
    yield postgresql_server
    # Each has several megabytes, and a run makes hundreds.
    postgresql_server.drop_databases()


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that the tests of one module share, removed after them: pytest would keep gigabytes until the end."""
    folder = tmp_path_factory.mktemp("module")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis for all tests of a run; who kills it starts it again."""
    require_programs(["redis-server"])
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    """A MinIO for all tests of a run, each of which makes a bucket of its own; who kills it starts it again."""
    program = minio_program()
    if not program.exists():
        do_without("needs MinIO: .ci/minio builds it")
    with Minio(tmp_path_factory.mktemp("minio"), program) as server:
        yield server


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versitygw]:
    """A versitygw for all tests of a run, each of which makes a bucket of its own."""
    program = versitygw_program()
    if not program.exists():
        do_without("needs versitygw: .ci/versitygw builds it")
    with Versitygw(tmp_path_factory.mktemp("versitygw"), program) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_linux(tmp_path_factory: pytest.TempPathFactory) -> TinyLinux:
    """A small Linux for all tests of a run, which they boot from overlays; each variant is built once."""
    require_programs(["qemu-img"])
    linux = TinyLinux(tmp_path_factory.mktemp("tiny-linux"))
    try:
        linux.qcow2()
    except CannotBuild as error:
        do_without(str(error))
    return linux
