"""`python -m tests.bench [NAMES…]`: measure, and print what came out. `make bench ARGS=…` runs it."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tests.bench import (
    captures,
    catalogue,
    compression,
    conversion,
    crowd,
    growth,
    memory,
    pages,
    promotion,
    receiving,
    servers,
    sharing,
    stored_conversion,
    watchers,
)
from tests.bench.figures import Report, markdown, show
from tests.bench.machine import describe
from tests.bench.scale import Scale

MEASUREMENTS: Mapping[str, Callable[[Scale], Report]] = {
    "receiving": receiving.measure,
    "conversion": conversion.measure,
    "growth": growth.measure,
    "memory": memory.measure,
    "pages": pages.measure,
    "watchers": watchers.measure,
    "stored_conversion": stored_conversion.measure,
    "compression": compression.measure,
    "sharing": sharing.measure,
    "catalogue": catalogue.measure,
    "crowd": crowd.measure,
    "servers": servers.measure,
    "captures": captures.measure,
    "promotion": promotion.measure,
}


def main(arguments: list[str]) -> int:
    """Run the measurements that are named, or all; 1 when a goal was missed and that is to count."""
    asked = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    machine = describe(asked.folder)
    console.print(machine, highlight=False)
    reports = [_measured(name, asked, console) for name in asked.names or MEASUREMENTS]
    if asked.markdown:
        asked.markdown.write_text("\n".join([machine + ".\n", *map(markdown, reports)]))
    missed = [f"{report.title}: {figure.what}" for report in reports for figure in report.missed]
    console.print(f"\ngoals missed: {', '.join(missed)}" if missed else "\nno goal was missed")
    return 1 if missed and asked.strict else 0


def _measured(name: str, asked: argparse.Namespace, console: Console) -> Report:
    scale = Scale(
        asked.size,
        asked.rounds,
        asked.watchers,
        asked.events,
        asked.seconds,
        asked.folder,
        images=asked.images,
        crowd=asked.crowd,
    )
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-", dir=asked.folder) as folder:
        report = MEASUREMENTS[name](replace(scale, folder=Path(folder)))
    show(report, console)
    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASUREMENTS)}; all without")
    parser.add_argument("--size", type=float, default=1, metavar="GIB", help="data in an image, in GiB [1]")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where to write [/var/tmp]")  # noqa: S108
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured [3]")
    parser.add_argument("--watchers", type=int, default=1000, help="how many watch at once [1000]")
    parser.add_argument("--crowd", type=int, default=10_000, help="how many watch two API processes [10000]")
    parser.add_argument("--images", type=int, default=1_000_000, help="images in the large catalogue [1000000]")
    parser.add_argument("--events", type=int, default=50, help="how many events they are sent [50]")
    parser.add_argument("--seconds", type=float, default=5, help="how long pages are asked for in a round [5]")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    parser.add_argument("--strict", action="store_true", help="end with 1 when a goal is missed")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
