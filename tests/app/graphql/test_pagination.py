"""Keyset cursors: decoding returns what was encoded, and refuses everything else."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.graphql.types.connections import Position, decode_cursor, encode_cursor

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)
KEYS = st.none() | TEXTS | st.integers(-(2**63), 2**63 - 1)


def forged(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode().rstrip("=")


@given(order=TEXTS, key=KEYS, id_=TEXTS)
def test_a_cursor_is_decoded_to_what_was_encoded(order: str, key: str | int | None, id_: str) -> None:
    cursor = encode_cursor(order, key, id_)
    assert cursor.replace("-", "").replace("_", "").isalnum()
    assert cursor.isascii()
    assert decode_cursor(cursor, order) == Position(key, id_)


@given(st.text())
def test_text_that_is_no_cursor_is_refused_and_never_breaks(text: str) -> None:
    with pytest.raises(InvalidInput):
        decode_cursor(text, "NAME")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_cursor_are_refused_and_never_break(content: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_cursor(base64.urlsafe_b64encode(content).decode().rstrip("="), "NAME")


@pytest.mark.parametrize(
    "content",
    [
        None, 1, "x", {}, [], [1], [1, "NAME", "a"], [1, "NAME", "a", "b", "c"], [0, "NAME", "a", "b"],
        [2, "NAME", "a", "b"], [True, "NAME", "a", "b"], [1.0, "NAME", "a", "b"], ["1", "NAME", "a", "b"],
        [1, "SIZE", "a", "b"], [1, None, "a", "b"], [1, "NAME", 1.5, "b"], [1, "NAME", True, "b"],
        [1, "NAME", [], "b"], [1, "NAME", {}, "b"], [1, "NAME", "a", None], [1, "NAME", "a", 1],
        [1, "NAME", 2**63, "b"], [1, "NAME", -(2**63) - 1, "b"], [1, "NAME", "a\0", "b"],
        [1, "NAME", "a", "b\0"], [1, "NAME", "\ud800", "b"], [1, "NAME", "a", "\udfff"],
        [1, "NAME", float("nan"), "b"],
    ],
)  # fmt: skip
def test_a_forged_cursor_is_refused(content: Any) -> None:
    with pytest.raises(InvalidInput):
        decode_cursor(forged(content), "NAME")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cursor: cursor + "=",
        lambda cursor: cursor + "\n",
        lambda cursor: " " + cursor,
        lambda cursor: cursor[:-1],
        lambda cursor: cursor + "A",
        lambda cursor: "A" * 10_000,
        lambda cursor: cursor * 1000,
        lambda cursor: base64.b64encode(b'[1, "NAME", "a", "b"]').decode(),
        lambda cursor: base64.urlsafe_b64encode(b"[" * 3000).decode(),
        lambda cursor: base64.urlsafe_b64encode(b'[1,"NAME",' + b"1" * 2900 + b',"b"]').decode(),
    ],
)
def test_a_spoiled_cursor_is_refused(spoil: Any) -> None:
    with pytest.raises(InvalidInput):
        decode_cursor(spoil(encode_cursor("NAME", "a", "b")), "NAME")


def test_the_refusal_names_the_argument_and_a_way_out() -> None:
    with pytest.raises(InvalidInput) as refusal:
        decode_cursor("nonsense", "NAME", field="before")
    assert refusal.value.field == ("before",)
    assert refusal.value.hint is not None


def test_the_longest_name_fits() -> None:
    name = "\N{GRINNING FACE}" * 255
    assert decode_cursor(encode_cursor("NAME", name, "01J"), "NAME").key == name
