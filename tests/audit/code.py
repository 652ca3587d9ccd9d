"""Audits of the tree itself, which need no network: bandit, the workers' seccomp profile, and secrets."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.audit.findings import Audit, judged
from tests.audit.tools import ROOT, last_line, run

BASELINE = ROOT / ".ci/known-secrets.json"
# Lock files and requirements hold hashes, schemas and licence nothing at all.
_NO_SECRETS = r"(.*requirements.*\.txt|\.ci/.*\.(txt|json)|.*package-lock\.json|LICENSE|(schema|released)\.graphql)$"
# A secret, as far as it is written down: the file, what kind it looks like, and its SHA-1.
Secret = tuple[str, str, str]


def audits() -> Iterator[Audit]:
    """All of them."""
    yield bandit()
    yield seccomp()
    yield secrets()


def bandit() -> Audit:
    """What bandit finds in the gateway and the workers. What is as it has to be has a `# nosec` with its reason."""
    done = run(
        "bandit", "--quiet", "--recursive", "--format", "json", "--configfile", "pyproject.toml", "app", "workers"
    )
    report = json.loads(done.stdout)
    found = [
        f"{each['filename']}:{each['line_number']}: {each['test_id']} {each['issue_text']}"
        for each in report["results"]
    ]
    found += [f"{each['filename']}: {each['reason']}" for each in report["errors"]]
    return judged("bandit", f"{report['metrics']['_totals']['loc']} lines of app and workers", found)


def seccomp() -> Audit:
    """The test of the profile that workers run under."""
    done = run(sys.executable, "-m", "pytest", "-q", "-n0", "tests/test_compose.py", "-k", "profile")
    found = [] if done.returncode == 0 else [last_line(done.stdout)]
    return judged("seccomp profile", "workers/seccomp.json", found)


def secrets() -> Audit:
    """Whatever looks like a secret and is not in the list of those that are none."""
    known = {secret for secret, _ in in_report(json.loads(BASELINE.read_text()))}
    report = scan()
    new = [
        f"{file}:{line}: {kind}"
        for (file, kind, digest), line in in_report(report)
        if (file, kind, digest) not in known
    ]
    return judged("secrets", f"the tree, beside {len(known)} that are known to be none", new)


def scan(*paths: str) -> Mapping[str, Any]:
    """The report of detect-secrets on files of the tree, or on all of it that is in version control.

    Nothing that is found is tried at the service that it may be for.
    """
    done = run("detect-secrets", "scan", "--no-verify", "--exclude-files", _NO_SECRETS, *paths)
    if done.returncode != 0:
        raise RuntimeError(f"detect-secrets: {done.stderr}")
    report: Mapping[str, Any] = json.loads(done.stdout)
    return report


def in_report(report: Mapping[str, Any]) -> Iterator[tuple[Secret, int]]:
    """The secrets of a report, and the line of each. Lines move, so that they are no part of it."""
    for file, entries in sorted(report["results"].items()):
        for entry in entries:
            yield (file, entry["type"], entry["hashed_secret"]), entry["line_number"]


def accept() -> Path:
    """Take all that is found now for no secrets: people look at the difference."""
    found: dict[str, list[dict[str, str]]] = {}
    for (file, kind, digest), _ in in_report(scan()):
        found.setdefault(file, []).append({"type": kind, "hashed_secret": digest})
    kept: Mapping[str, Sequence[Mapping[str, object]]] = {
        file: [{**entry, "line_number": 0} for entry in sorted(entries, key=str)] for file, entries in found.items()
    }
    BASELINE.write_text(json.dumps({"results": kept}, indent=2) + "\n")
    return BASELINE
