"""Known vulnerabilities of what the gateway is built from: pip-audit and npm audit.

Both ask a database on the network. Mirrors of a package registry often have none; then that is reported, and nothing
fails.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.audit.findings import Audit, judged, unreachable
from tests.audit.tools import last_line, run

# requirements-dev.txt holds all of requirements.txt, at the same versions.
PYTHON = ("requirements-dev.txt", ".ci/tools.txt", ".ci/node.txt", ".ci/go.txt", ".ci/audit.txt", ".ci/codegen.txt")
NPM = ("app/web/graphiql", "tests/outside")


def audits() -> Iterator[Audit]:
    """One for each file of pinned requirements and for each lock file."""
    for file in PYTHON:
        done = run("pip-audit", "--requirement", file, *_PIP_AUDIT)
        yield of_python(file, done.stdout, done.stderr)
    for folder in NPM:
        done = run("npm", "audit", "--prefix", folder, "--package-lock-only", "--json")
        yield of_npm(folder, done.stdout, done.stderr)


# Nothing is installed or resolved to be audited: the files pin everything.
_PIP_AUDIT = ("--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off", "--timeout", "15")


def of_python(file: str, output: str, complaint: str) -> Audit:
    """What pip-audit's report says."""
    name = f"pip-audit {file}"
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        return unreachable(name, last_line(complaint))
    known = [package for package in packages if "skip_reason" not in package]
    if packages and not known:
        # So answers a mirror that serves files and no reports.
        return unreachable(name, f"it knows none of {len(packages)} packages")
    found = [
        f"{package['name']} {package['version']}: {report['id']}, fixed in {', '.join(report['fix_versions'])}"
        for package in known
        for report in package["vulns"]
    ]
    return judged(name, f"{len(known)} of {len(packages)} packages", found)


def of_npm(folder: str, output: str, complaint: str) -> Audit:
    """What npm's report says."""
    name = f"npm audit {folder}"
    try:
        report: Mapping[str, Any] = json.loads(output)
        vulnerabilities, counted = report["vulnerabilities"], report["metadata"]["dependencies"]["total"]
    except (ValueError, KeyError):
        return unreachable(name, complaint.partition("\n")[0])
    found = [f"{each['name']} {each['range']}: {each['severity']}" for each in vulnerabilities.values()]
    return judged(name, f"{counted} packages", found)
