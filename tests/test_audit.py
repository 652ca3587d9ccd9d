"""What `make audit` makes of the reports of its tools."""

import json
from typing import Any

import pytest

from tests.audit.code import in_report
from tests.audit.dependencies import of_npm, of_python
from tests.audit.findings import Verdict


def pip_report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": [{"name": "one", "version": "1.0", **package} for package in packages]})


def test_packages_without_known_vulnerabilities_pass() -> None:
    audit = of_python("requirements.txt", pip_report({"vulns": []}, {"vulns": []}), "")

    assert (audit.verdict, audit.summary) == (Verdict.PASSED, "nothing found in 2 of 2 packages")


def test_a_known_vulnerability_fails_and_says_where_it_is_fixed() -> None:
    audit = of_python("requirements.txt", pip_report({"vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]}), "")

    assert audit.verdict is Verdict.FAILED
    assert list(audit.findings) == ["one 1.0: CVE-1, fixed in 1.1"]


@pytest.mark.parametrize("output", ["", pip_report({"skip_reason": "not found"})])
def test_a_database_of_pip_audit_that_is_away_fails_nothing(output: str) -> None:
    assert of_python("requirements.txt", output, "ERROR:pip_audit:no route").verdict is Verdict.UNREACHABLE


def test_a_database_of_npm_that_is_away_fails_nothing() -> None:
    audit = of_npm("tests/outside", json.dumps({"error": {"summary": ""}}), "npm warn audit 405\nnpm error …")

    assert audit.verdict is Verdict.UNREACHABLE
    assert audit.summary.endswith("npm warn audit 405")


def test_a_vulnerability_that_npm_knows_fails() -> None:
    known = {"vulnerabilities": {"ws": {"name": "ws", "range": "<8", "severity": "high"}}}
    report = {**known, "metadata": {"dependencies": {"total": 9}}}

    audit = of_npm("tests/outside", json.dumps(report), "")

    assert (audit.verdict, list(audit.findings)) == (Verdict.FAILED, ["ws <8: high"])


def test_a_secret_that_moved_to_another_line_is_the_same_one() -> None:
    def report(line: int) -> dict[str, Any]:
        return {"results": {"app/one.py": [{"type": "Secret Keyword", "hashed_secret": "a1", "line_number": line}]}}

    [(before, _)], [(after, line)] = in_report(report(1)), in_report(report(2))

    assert (before, line) == (after, 2)
