"""What an audit found, and how it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """How an audit ended; only `FAILED` fails them all."""

    PASSED = "passed"
    FAILED = "FAILED"
    UNREACHABLE = "not done"


@dataclass(frozen=True, slots=True)
class Audit:
    """One audit: what was looked at, and each finding in a line."""

    name: str
    verdict: Verdict
    summary: str
    findings: Sequence[str] = field(default=())


def judged(name: str, looked_at: str, findings: Sequence[str]) -> Audit:
    """An audit that could be done: it passed when it found nothing."""
    if findings:
        return Audit(name, Verdict.FAILED, f"{len(findings)} findings in {looked_at}", findings)
    return Audit(name, Verdict.PASSED, f"nothing found in {looked_at}")


def unreachable(name: str, why: str) -> Audit:
    """An audit that asks a database that can't be reached from here."""
    return Audit(name, Verdict.UNREACHABLE, f"the database can't be reached: {why}")
