"""`python -m tests.audit`: audit code and dependencies, and print a summary. `make audit` runs it."""

import argparse
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from tests.audit import code, dependencies
from tests.audit.findings import Audit, Verdict

_STYLES = {Verdict.FAILED: "red", Verdict.UNREACHABLE: "yellow", Verdict.PASSED: None}


def main(arguments: Sequence[str]) -> int:
    """Run the audits; 1 when one of them failed."""
    asked = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if asked.accept_secrets:
        console.print(f"written: {code.accept()}")
        return 0
    audits = list(_audits(offline=asked.offline))
    for line in [line for audit in audits for line in audit.findings]:
        console.print(line, highlight=False, soft_wrap=True)
    console.print(_table(audits))
    return 1 if any(audit.verdict is Verdict.FAILED for audit in audits) else 0


def _audits(*, offline: bool) -> Iterator[Audit]:
    yield from code.audits()
    if not offline:
        yield from dependencies.audits()


def _table(audits: Sequence[Audit]) -> Table:
    table = Table("audit", "verdict", "what was seen")
    for audit in audits:
        table.add_row(audit.name, audit.verdict, audit.summary, style=_STYLES[audit.verdict])
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.audit", description=__doc__)
    parser.add_argument("--offline", action="store_true", help="only what asks no database on the network")
    parser.add_argument(
        "--accept-secrets", action="store_true", help="take what looks like a secret now for none, and write that down"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
