"""Shows how far a file is: as a bar where there is a terminal, as a few lines where there is none, or not at all."""

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
    ImagePhase.WAITING: "waiting for a worker",
    ImagePhase.INSPECTING: "inspecting",
    ImagePhase.CONVERTING: "converting",
    ImagePhase.STORING: "storing",
    ImagePhase.VERIFYING: "verifying",
}


class Reporter:
    """Says nothing: for programs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def begin(self, what: str, done: int, total: int | None) -> None:
        """Something begins of which `done` of `total` bytes are there already; None when nobody knows how many."""

    def advance(self, count: int) -> None:
        """`count` bytes more are done; less, when it is negative."""

    def show(self, image: ImageFields) -> None:
        """The image is as far as its progress says."""

    def note(self, text: str) -> None:
        """Something that people have to know, whatever happens next."""


class LineReporter(Reporter):
    """One line for each thing that begins: for logs."""

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
    """One bar, which begins anew with each thing that begins."""

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
        self._output.note(text)  # above the bar: it is on the same console


def reporter_for(output: Output) -> Reporter:
    """The reporter that fits where the command prints."""
    if output.as_json:
        return Reporter()
    return BarReporter(output) if output.shows_bars else LineReporter(output)


def phase_text(progress: ProgressFields) -> str:
    """What is being done, for people."""
    return _PHASES.get(progress.phase, progress.phase.lower())
