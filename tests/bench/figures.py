"""What was measured, and how it is shown: a table for a terminal, or the same in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table

_COLUMNS = ("what", "measured", "against", "ratio", "goal", "ok")
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `ok` is None where no goal is set, or nothing could be measured."""

    what: str
    measured: str
    against: str = ""
    ratio: float | None = None
    goal: str = ""
    ok: bool | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands in each column."""
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}"
        verdict = {None: "", True: "yes", False: "NO"}[self.ok]
        return (self.what, self.measured, self.against, ratio, self.goal, verdict)


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of one measurement, and what has to be known to read them."""

    title: str
    how: str
    figures: Sequence[Figure]

    @property
    def missed(self) -> list[Figure]:
        """The figures that are not within their goal."""
        return [figure for figure in self.figures if figure.ok is False]


def show(report: Report, console: Console) -> None:
    """Print a report for people."""
    console.print(f"\n[bold]{report.title}[/bold]")
    console.print(report.how, highlight=False)
    table = Table(*_COLUMNS)
    for figure in report.figures:
        table.add_row(*figure.cells, style="red" if figure.ok is False else None)
    console.print(table)


def markdown(report: Report) -> str:
    """The same for docs/speed.md."""
    lines = [f"### {report.title}", "", report.how, "", _row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
    return "\n".join([*lines, *(_row(figure.cells) for figure in report.figures), ""])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def middle(values: Sequence[float]) -> float:
    """The median of several rounds; NaN of none."""
    return median(values) if values else float("nan")


def quantile(values: Sequence[float], share: float) -> float:
    """The least of the values that at least `share` (0 to 1) of them do not exceed; NaN of none."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else float("nan")


def seconds(value: float) -> str:
    """A time, in a unit that suits it."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def mebibytes(value: float) -> str:
    """A number of bytes, in MiB."""
    return f"{value / _MIB:.1f} MiB"


def speed(value: float) -> str:
    """Bytes per second, in MiB/s."""
    return f"{value / _MIB:.0f} MiB/s"
