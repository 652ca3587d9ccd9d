"""The README's tables say what the code says."""

from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from app.client.exits import MEANINGS
from app.settings import Settings

README = Path(__file__).parent.parent / "README.md"


def shown_default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None or value == ():
        return ""
    return f"`{value}`"


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_stands_in_the_readme_with_its_default_and_what_it_is_for(name: str) -> None:
    field = Settings.model_fields[name]

    row = f"| `IMAGES_{name.upper()}` | {shown_default(field)} | {field.description} |"

    assert row in README.read_text().splitlines()


@pytest.mark.parametrize("code", list(MEANINGS))
def test_every_exit_code_stands_in_the_readme(code: int) -> None:
    assert f"| {int(code)} | {MEANINGS[code]} |" in README.read_text().splitlines()  # type: ignore[index]
