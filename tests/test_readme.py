"""The README and docs/ say what the code says, and their links lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from app.client.exits import MEANINGS
from app.settings import Settings

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
README_LINES = 200
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its examples."""
    return _FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What a link may name behind `#`: the headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The file and the anchor of every link of a page that stays in the tree."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in target:
            name, _, anchor = target.partition("#")
            yield (page.parent / name).resolve() if name else page, anchor


def shown_default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None or value == ():
        return ""
    return f"`{value}`"


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    field = Settings.model_fields[name]

    row = f"| `IMAGES_{name.upper()}` | {shown_default(field)} | {field.description} |"

    assert row in (ROOT / "docs/operating.md").read_text().splitlines()


@pytest.mark.parametrize("code", list(MEANINGS))
def test_every_exit_code_is_documented(code: int) -> None:
    row = f"| {int(code)} | {MEANINGS[code]} |"  # type: ignore[index]

    assert row in (ROOT / "docs/cli.md").read_text().splitlines()


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = [
        f"{target}#{anchor}"
        for target, anchor in links(page)
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]

    assert broken == []


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {target for target, _ in links(README)}

    assert [page for page in PAGES if page.parent == ROOT / "docs" and page not in linked] == []


@pytest.mark.parametrize("folder", ["app", "workers", "tests"])
def test_every_page_that_the_code_names_is_there(folder: str) -> None:
    named = {
        name for file in (ROOT / folder).rglob("*.py") for name in re.findall(r"\bdocs/[\w/-]+\.md\b", file.read_text())
    }

    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_rule_that_the_code_cites_is_stated() -> None:
    stated = set(re.findall(r"^(\d+)\. \*\*", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE))
    cited = {
        number
        for folder in ("app", "workers", "tests")
        for file in (ROOT / folder).rglob("*.py")
        for number in re.findall(r"architecture, rule (\d+)", file.read_text())
    }

    assert cited <= stated
