"""Reports progress: as a bar on a terminal, as a few lines without one, or not at all for programs."""

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from app.client.generated.enums import ImagePhase
from app.client.generated.fragments import ImageFields, ProgressFields
from app.client.terminal.output import Output
from app.client.terminal.text import visible

_PHASES = {
    ImagePhase.AWAITING_UPLOAD: "waiting for bytes",
    ImagePhase.UPLOADING: "uploading",
    ImagePhase.CAPTURING: "capturing the volume",
    ImagePhase.WAITING: "waiting for a worker",
    ImagePhase.INSPECTING: "inspecting",
    ImagePhase.CONVERTING: "converting",
    ImagePhase.STORING: "storing",
    ImagePhase.VERIFYING: "verifying",
}


class Reporter:
    """Reports nothing: for programs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def begin(self, what: str, done: int, total: int | None) -> None:
        """A step begins, with `done` of `total` bytes already done; `total` is None if it is unknown."""

    def advance(self, count: int) -> None:
        """`count` more bytes are done; fewer if it is negative."""

    def show(self, image: ImageFields) -> None:
        """Show the image's progress."""

    def note(self, text: str) -> None:
        """Print a note that stays visible."""


class LineReporter(Reporter):
    """Prints one line when a step begins: for logs."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._last = ""

    def begin(self, what: str, done: int, total: int | None) -> None:
        if what != self._last:
            self._last = what
            self._output.note(what)

    def show(self, image: ImageFields) -> None:
        if image.progress:
            self.begin(phase_text(image.progress), 0, None)

    def note(self, text: str) -> None:
        self._output.note(text)


class BarReporter(Reporter):
    """Shows one bar, which starts over with each step."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=output.err,
            transient=True,
        )
        self._task: TaskID | None = None
        self._what = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, what: str, done: int, total: int | None) -> None:
        if self._task is None or what != self._what:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._what = what
            self._task = self._progress.add_task(visible(what), total=total)
        self._progress.update(self._task, completed=done, total=total)

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, count)

    def show(self, image: ImageFields) -> None:
        if progress := image.progress:
            self.begin(phase_text(progress), progress.bytes_done, progress.bytes_total)

    def note(self, text: str) -> None:
        self._output.note(text)  # on the same console, so it appears above the bar


def reporter_for(output: Output) -> Reporter:
    """The reporter for a command's output."""
    if output.as_json:
        return Reporter()
    return BarReporter(output) if output.shows_bars else LineReporter(output)


def phase_text(progress: ProgressFields) -> str:
    """The name of the phase, for people."""
    return _PHASES.get(progress.phase, progress.phase.lower())
