"""Metrics as Prometheus scrapes them: of `images up`, and of every process of a scaled-out gateway."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e import images
from tests.e2e.client import Client, becomes, eventually
from tests.e2e.cluster import ImagesProcess, running_cluster
from tests.e2e.gateway import Gateway, running
from tests.e2e.images import MiB
from tests.e2e.processes import descendants, images_command
from tests.servers.postgresql import PostgreSQL
from tests.servers.process import free_port
from tests.support.scraped import Scrape

pytestmark = pytest.mark.needs_program("qemu-img")

# How long Prometheus waits for a scrape by default, in seconds.
SCRAPE_SECONDS = 10


def scrape(port: int) -> Scrape:
    """A scrape of a port of its own."""
    response = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=SCRAPE_SECONDS)
    assert response.status_code == 200
    return Scrape.of(response.text)


# ------------------------------------------------------------ in one process


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway(module_folder: Path, metrics_port: int) -> Iterator[Gateway]:
    with running(module_folder / "data", {"IMAGES_METRICS_PORT": str(metrics_port)}) as gateway:
        yield gateway


def test_one_process_shows_an_image_on_its_way(gateway: Gateway, metrics_port: int, disks: Path) -> None:
    source = images.DENSE.write(disks)
    before = scrape(metrics_port)

    with Client.of(gateway) as client:
        image_id = client.upload(source, format="RAW")
        client.hashed(image_id)

    after = scrape(metrics_port)
    assert after.more(before, "images_requests_total", operation="createImage", type="mutation", outcome="OK") == 1
    assert after.more(before, "images_client_bytes_total", direction="in", path="gateway") == source.stat().st_size
    assert after.more(before, "images_conversion_seconds_count", format="RAW", job="CONVERT") == 1
    assert after.more(before, "images_job_seconds_count", kind="CONVERT") == 1
    assert after.value("images_feed_read_timestamp_seconds") > 0
    assert after.value("process_open_fds") > 0
    # Read by the schedule, some seconds later.
    becomes(lambda: scrape(metrics_port).value("images_uploads_open"), 0)
    becomes(lambda: scrape(metrics_port).value("images_jobs"), 0)


def test_a_file_that_is_no_image_is_counted_by_its_failure(gateway: Gateway, metrics_port: int, disks: Path) -> None:
    broken = disks / "broken.qcow2"
    broken.write_bytes(b"QFI\xfb" + bytes(MiB))
    before = scrape(metrics_port)

    with Client.of(gateway) as client:
        image_id, _ = client.create(broken, format="QCOW2")
        client.put_all(broken, client.missing(image_id))
        failure = client.settled(image_id)["failure"]

    assert scrape(metrics_port).more(before, "images_failed_total", code=failure["code"]) == 1


def test_the_port_serves_metrics_alone_and_the_api_none(gateway: Gateway, metrics_port: int) -> None:
    own = f"http://127.0.0.1:{metrics_port}"

    assert httpx.get(f"{own}/metrics?name=x", timeout=SCRAPE_SECONDS).status_code == 200
    for path in ("/", "/graphql", "/healthz", "/metrics/"):
        assert httpx.get(own + path, timeout=SCRAPE_SECONDS).status_code == 404
    assert httpx.post(f"{own}/metrics", timeout=SCRAPE_SECONDS).status_code == 501
    assert httpx.get(f"{gateway.url}/metrics", timeout=SCRAPE_SECONDS).status_code == 404


def test_a_client_that_sends_nothing_keeps_no_one_from_scraping(gateway: Gateway, metrics_port: int) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", metrics_port)))

        assert scrape(metrics_port).names


@pytest.mark.parametrize("command", [("up",), ("serve", "--port", "0"), ("work",), ("schedule",)], ids=lambda c: c[0])
def test_a_port_that_is_taken_ends_the_process_with_a_hint(
    gateway: Gateway, metrics_port: int, command: tuple[str, ...], tmp_path: Path
) -> None:
    data = ("--data", str(tmp_path / "data"))

    done = images_command(*command, *data, env={"IMAGES_METRICS_PORT": str(metrics_port)})

    assert done.returncode == 2
    assert f"IMAGES_METRICS_PORT: can't listen on 127.0.0.1 port {metrics_port}" in done.stderr
    assert "set a different port for each process on this machine" in done.stderr


def test_without_a_port_an_operator_reads_them_at_the_api(tmp_path: Path) -> None:
    with running(tmp_path / "data") as gateway:
        issued = images_command("token", "--subject", "ops", "--operator", "--data", str(gateway.data)).stdout.strip()

        def ask(token: str | None) -> httpx.Response:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return httpx.get(f"{gateway.url}/metrics", headers=headers, timeout=SCRAPE_SECONDS)

        assert (ask(None).status_code, ask(gateway.token).status_code) == (401, 403)
        assert "images_subscriptions_open" in Scrape.of(ask(issued).text).names
        eventually(lambda: "images_jobs" in Scrape.of(ask(issued).text).names)


# ------------------------------------------------------------ scaled out


@dataclass(frozen=True)
class Measured:
    """Processes of one gateway, each with its port for metrics."""

    apis: list[ImagesProcess]
    worker: ImagesProcess
    scheduler: ImagesProcess
    postgresql: PostgreSQL

    @property
    def all(self) -> list[ImagesProcess]:
        return [*self.apis, self.worker, self.scheduler]


def of(process: ImagesProcess) -> Scrape:
    return scrape(int(process.settings["IMAGES_METRICS_PORT"]))


@pytest.fixture(scope="module")
def measured(module_folder: Path) -> Iterator[tuple[Measured, str]]:
    commands = {"api-1": ["serve"], "api-2": ["serve"], "worker": ["work", "--no-schedule"], "scheduler": ["schedule"]}
    settings = {"IMAGES_LEASE_SECONDS": "3", "IMAGES_MINIMUM_PART_SIZE": str(5 * MiB)}
    with running_cluster(module_folder / "cluster", apis=0, workers=0, env=settings) as cluster, ExitStack() as stack:
        processes = {}
        for name, command in commands.items():
            own = {**cluster.settings, "IMAGES_METRICS_PORT": str(free_port())}
            processes[name] = ImagesProcess(module_folder / name, command, own)
            stack.callback(processes[name].kill)
            processes[name].start()
        api_1, api_2, worker, scheduler = processes.values()
        token = cluster.token()
        yield Measured([api_1, api_2], worker, scheduler, cluster.postgresql), token


@pytest.mark.needs_program("qemu-nbd", "redis-server")
def test_each_process_counts_what_it_does_itself(measured: tuple[Measured, str], disks: Path) -> None:
    processes, token = measured
    source = images.DENSE.write(disks)
    eventually(lambda: all(_answers(process) for process in processes.all))
    before = {process: of(process) for process in processes.all}

    with Client.with_token(processes.apis[0].url, token, "alpha") as client:
        client.hashed(client.upload(source, format="RAW"))

    after = {process: of(process) for process in processes.all}
    created = [
        after[process].more(before[process], "images_requests_total", operation="createImage")
        for process in processes.all
    ]
    assert created == [1, 0, 0, 0]
    # They went to MinIO, which confirmed them when the upload was completed.
    arrived = after[processes.apis[0]].more(before[processes.apis[0]], "images_client_bytes_total", path="store")
    assert arrived == source.stat().st_size
    converted = [
        after[process].more(before[process], "images_conversion_seconds_count", format="RAW")
        for process in processes.all
    ]
    assert converted == [0, 0, 1, 0]


@pytest.mark.needs_program("qemu-nbd", "redis-server")
def test_each_kind_of_process_shows_what_it_knows(measured: tuple[Measured, str]) -> None:
    processes, _ = measured
    eventually(lambda: all(_answers(process) for process in processes.all))
    eventually(lambda: "images_jobs" in of(processes.scheduler).names)

    shown = [
        {"images_feed_lag_events", "images_uploads_open", "images_database_connections_limit"} & of(process).names
        for process in processes.all
    ]

    pool = "images_database_connections_limit"
    assert shown == [{"images_feed_lag_events", pool}] * 2 + [{pool}, {"images_uploads_open", pool}]


@pytest.mark.needs_program("qemu-nbd", "redis-server")
def test_a_database_that_hangs_keeps_no_process_from_being_scraped(measured: tuple[Measured, str]) -> None:
    processes, _ = measured
    eventually(lambda: all(_answers(process) for process in processes.all))
    pids = [processes.postgresql.pid, *(child.pid for child in descendants(processes.postgresql.pid))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        # Long enough that every process waits for an answer of the database.
        read_at = of(processes.scheduler).value("images_catalogue_read_timestamp_seconds")
        for process in processes.all:
            assert of(process).value("process_cpu_seconds_total") > 0
        assert of(processes.scheduler).value("images_catalogue_read_timestamp_seconds") >= read_at
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _answers(process: ImagesProcess) -> bool:
    try:
        return bool(of(process).names)
    except httpx.TransportError:
        return False
