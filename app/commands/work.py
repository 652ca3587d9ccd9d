"""The commands that run only workers, their scheduler, or servers. They do not load the API, to save memory."""

import asyncio
import signal
import threading
from contextlib import ExitStack
from typing import Annotated

import typer

from app.adapters.chosen import messaging
from app.commands.metrics_port import metrics_port
from app.commands.options import FOR_OPERATORS, Data
from app.commands.starting import prepare, settings_from
from app.errors import HostForgotten, SettingsError
from app.sizes import counted, spelled
from workers.main import Workers, run_sweeps
from workers.memory import share_heap


def add_work_commands(cli: typer.Typer) -> None:
    """Add `work`, `schedule` and `host` to the commands."""
    cli.command("work", rich_help_panel=FOR_OPERATORS)(work)
    cli.command("schedule", rich_help_panel=FOR_OPERATORS)(run_schedule)
    cli.command("host", rich_help_panel=FOR_OPERATORS)(host)


def work(
    data: Data = None,
    schedule: Annotated[
        bool, typer.Option(help="Run the scheduler here, too; otherwise `images schedule` must run somewhere.")
    ] = True,
) -> None:
    """Run only the workers, until SIGTERM or SIGINT."""
    settings = settings_from(data=data)
    if not schedule and settings.broker_url is None:
        raise SettingsError("--no-schedule needs IMAGES_BROKER_URL: without a broker, the scheduler finds the jobs")
    share_heap()
    prepare(settings)
    stopped = _stop_on_signal()
    with metrics_port(settings), messaging(settings) as channels:
        with Workers(
            settings, channels.broker, channels.wakeups, channels.announce, channels.queue, scheduled=schedule
        ):
            print(f"working on {counted(settings.workers, 'job')} at a time", flush=True)  # noqa: T201
            stopped.wait()


def run_schedule(data: Data = None) -> None:
    """Run only the scheduler, until SIGTERM or SIGINT: lost jobs, idle uploads, orphans. Several may run."""
    settings = settings_from(data=data)
    prepare(settings)
    stopped = _stop_on_signal()
    with metrics_port(settings), messaging(settings, works=False) as channels:
        print("keeping time", flush=True)  # noqa: T201
        asyncio.run(run_sweeps(settings, channels.queue, channels.wakeups, channels.announce, stopped))


def host(data: Data = None) -> None:
    """Run the servers of this machine, until SIGTERM or SIGINT. Servers continue without it."""
    # Loaded only here: other commands do without.
    from workers.hosts import HostWorkers, this_host
    from workers.hypervisor.port import HypervisorUnavailable

    settings = settings_from(data=data)
    prepare(settings)
    stopped = _stop_on_signal()
    try:
        here = this_host(settings)
    except HypervisorUnavailable as error:
        raise SettingsError(f"this machine can't run servers: {error}") from error
    with metrics_port(settings), messaging(settings, works=False) as channels, ExitStack() as stack:
        try:
            stack.enter_context(HostWorkers(settings, here, channels.bells, channels.wakeups, channels.announce))
        except HostForgotten as error:
            raise SettingsError(f"this machine can't run servers: {error}") from error
        memory = spelled(here.about.memory)
        print(f"running servers with {here.about.accelerator} in {memory} of memory", flush=True)  # noqa: T201
        stopped.wait()


def _stop_on_signal() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return stopped
