"""The commands that run workers, or their clock, alone: without the API, whose memory they can use themselves."""

import asyncio
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from app.adapters.chosen import announcer, messaging
from app.commands.metrics_port import metrics_port
from app.commands.starting import prepare, settings_from
from app.errors import SettingsError
from workers.main import Workers, keep_time
from workers.memory import keep_little

FOR_OPERATORS = "For operators"

Data = Annotated[Path | None, typer.Option(help="Folder of database, objects and secret [IMAGES_DATA].")]


def add_work_commands(cli: typer.Typer) -> None:
    """Add `work` and `schedule` to the commands."""
    cli.command("work", rich_help_panel=FOR_OPERATORS)(work)
    cli.command("schedule", rich_help_panel=FOR_OPERATORS)(run_schedule)


def work(
    data: Data = None,
    schedule: Annotated[
        bool, typer.Option(help="Run the clock here, too; without it, `images schedule` has to run somewhere.")
    ] = True,
) -> None:
    """Run the workers alone, until SIGTERM or SIGINT."""
    settings = settings_from(data=data)
    if not schedule and settings.broker_url is None:
        raise SettingsError("--no-schedule needs IMAGES_BROKER_URL: without a broker it is the clock that finds jobs")
    keep_little()
    prepare(settings)
    stopped = _when_told_to_end()
    with metrics_port(settings), messaging(settings) as told:
        announce = announcer(told.queue, told.wakeups)
        with Workers(settings, told.broker, told.wakeups, announce, told.queue, scheduled=schedule):
            print(f"working on {settings.workers} jobs at a time", flush=True)  # noqa: T201
            stopped.wait()


def run_schedule(data: Data = None) -> None:
    """Run the clock alone, until SIGTERM or SIGINT: lost jobs, idle uploads, orphans. Several do no harm."""
    settings = settings_from(data=data)
    prepare(settings)
    stopped = _when_told_to_end()
    with metrics_port(settings), messaging(settings, works=False) as told:
        print("keeping time", flush=True)  # noqa: T201
        announce = announcer(told.queue, told.wakeups)
        asyncio.run(keep_time(settings, told.queue, told.wakeups, announce, stopped))


def _when_told_to_end() -> threading.Event:
    """Is set by SIGTERM and SIGINT."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return stopped
