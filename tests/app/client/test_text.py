"""What people see of names, sizes and times that come from elsewhere."""

import io
import json
import sys
from datetime import UTC, datetime, timedelta

import pytest

from app.client.errors import Refused
from app.client.generated.fragments import ImageFields
from app.client.terminal.output import Output
from app.client.terminal.showing import show_images
from app.client.terminal.text import age, size, visible
from tests.support import answers

HOSTILE = "[red]a[/red]\x1b]0;title\x07\x1b[2J\u202egpj.exe\n\r\u2028\x00\ud800\u200b é 画"


def image(**fields: object) -> ImageFields:
    return ImageFields.model_validate(answers.image() | fields)


def system(name: str) -> dict[str, object]:
    return {"family": "any", "version": None, "displayName": name}


def test_what_would_act_on_a_terminal_is_spelled_out_and_the_rest_stays() -> None:
    assert visible(HOSTILE) == (r"[red]a[/red]\x1b]0;title\x07\x1b[2J\u202egpj.exe\x0a\x0d\u2028\x00\ud800\u200b é 画")


def test_a_hostile_name_is_shown_as_it_is_in_every_kind_of_output(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    output.line(HOSTILE)
    output.note(HOSTILE)
    output.error(Refused(HOSTILE, hint=HOSTILE))
    output.details([("name", HOSTILE)])
    show_images(output, [image(name=HOSTILE, os=system(HOSTILE), id=HOSTILE)])

    printed = "".join(capsys.readouterr())
    assert printed.count(visible(HOSTILE)) == 8
    assert not set(printed) & set("\x1b\x07\x00\r\u202e\u2028\ud800\u200b")


def test_json_is_plain_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).json({"name": HOSTILE})

    printed = capsys.readouterr().out
    assert printed.isascii()
    assert "\x1b" not in printed
    assert json.loads(printed)["name"] == HOSTILE


def test_an_error_is_one_line_of_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).error(Refused("No.", hint="Fix it.", code="STALE_REVISION", field=["imageId"]))

    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "error": {"code": "STALE_REVISION", "message": "No.", "hint": "Fix it.", "field": ["imageId"]}
    }
    assert printed.err == ""


def test_a_name_that_the_terminal_has_no_letters_for_is_shown_by_its_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bytes_out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_out, encoding="ascii"))

    Output(as_json=False).line("画é")

    assert bytes_out.getvalue() == b"\\u753b\\xe9\n"


def test_without_a_terminal_a_row_stays_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_images(Output(as_json=False), [image(name="n" * 255)])

    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["NAME", "TYPE", "OS", "GiB", "STATUS", "VISIBLE", "CREATED", "ID"]
    assert row.split()[0] == "n" * 255
    assert row.split()[-1] == "img_1"


def test_ids_can_be_copied_whole_from_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "img_" + 26 * "x"
    output = Output(as_json=False)
    output.out.width = 80

    show_images(output, [image(id=long, os=system("Windows Server 2025"))])

    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert any(long in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "just now"),
        (0.5, "just now"),
        (1, "1 second ago"),
        (59, "59 seconds ago"),
        (60, "1 minute ago"),
        (3 * 3600 + 5, "3 hours ago"),
        (86400, "1 day ago"),
        (45 * 86400, "1 month ago"),
        (800 * 86400, "2 years ago"),
    ],
)
def test_ages_are_told_in_the_largest_unit_that_fits(seconds: float, shown: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    assert age(now - timedelta(seconds=seconds), now) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, "-"),
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**54, "16384.0 TiB"),
    ],
)
def test_sizes_are_told_in_binary_units(count: int | None, shown: str) -> None:
    assert size(count) == shown
