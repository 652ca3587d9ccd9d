"""What a guest writes to its console is harmless where it is shown, whatever it writes."""

import random
import re
import unicodedata

import pytest

from app.catalog.servers.console_text import clean, tail


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (b"", ""),
        (b"login: \tada\r\nPassword:", "login: \tada\nPassword:"),
        ("Grüße, 世界\n".encode(), "Grüße, 世界\n"),
        (b"10%\r20%\r\r\n30%", "10%\n20%\n30%"),
        (b"\x1b[1;31mred\x1b[0m \x1b[2J\x1b[H", "red "),
        (b"\x1b[?25l\x1b[>c\x1b[6n done", " done"),
        (b"\x1b]0;title\x07a\x1b]52;c;Zm9v\x1b\\b", "ab"),
        (b"\x1b]0;never ended\nnext", "\nnext"),
        (b"\x1bPq#0;2\x1b\\sixel", "sixel"),
        (b"\x1b(B\x1b=\x1bc\x1b7text\x1b", "text"),
        (b"a\x9b31m\x9d0;x\x9c ok", "a\ufffd31m\ufffd0;x\ufffd ok"),
        ("\x9b31mred\x9d0;x\x9c ok\x85next".encode(), "red ok\nnext"),
        (b"a\x00b\x08c\x7fd\x0be\x0cf\x07", "abcdef"),
        (b"\xff\xfe\x80text\xc3", "\ufffd\ufffd\ufffdtext\ufffd"),
        (b"\xa4\xbd\xe4\xb8\x96", "世"),
        ("a\u202eb\u2066c\u2028d\u2029e".encode(), "abc\nd\ne"),
        (b"\xed\xa0\x80", "\ufffd" * 3),
        (b"a\x1b[31mred\x1b[0m\tb\r\nc\rd\0\x07\x08\n", "ared\tb\nc\nd\n"),
        (b"\x1b]52;c;ZWNobyBoaQ==\x07x\x1bP1$r0m\x1b\\y\x1b(Bz\x1bc", "xyz"),
        ("\u202egnp.exe\u200b \x9b31mé 漢\ue000".encode(), "gnp.exe é 漢"),
        (b"\x1b[" + b"9" * 100_000, ""),
        (b"\x1b]" + b"x" * 100_000, ""),
    ],
)
def test_text_keeps_its_lines_and_nothing_that_acts_on_a_terminal(written: bytes, text: str) -> None:
    assert clean(written) == text


def test_whatever_is_written_becomes_text() -> None:
    chance = random.Random(7)
    pieces = [
        b"\x1b",
        b"[",
        b"]",
        b"P",
        b"\x9b",
        b"\xc2\x9b",
        b"\xc2\x90",
        b"\x07",
        b"\r",
        b"\n",
        b"x",
        b";",
        b"\xe2\x80\xae",
    ]
    for _ in range(2_000):
        found = clean(b"".join(chance.choices(pieces, k=chance.randrange(40))) + chance.randbytes(4))
        kept = [character for character in found if unicodedata.category(character) in ("Cc", "Cs")]
        assert set(kept) <= {"\t", "\n"}
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", found)
        found.encode()


@pytest.mark.parametrize(
    "piece", [b"\x1b", b"\x1b[", b"\x1b[1;", b"\x1b]", b"\x1b]x", b"\x1bPx", b"\r", b"\x1b[0", b"\xc2\x9d0"]
)
def test_no_text_takes_longer_than_its_length_justifies(piece: bytes) -> None:
    # With a pattern that goes back and forth, this would take hours.
    assert len(clean(piece * (262_144 // len(piece)))) <= 262_144


def test_the_end_of_a_text_does_not_split_a_character() -> None:
    assert tail("abc", 3) == ("abc", False)
    assert tail("a世界", 6) == ("世界", True)
    assert tail("a世界", 5) == ("界", True)
    assert tail("世", 2) == ("", True)
