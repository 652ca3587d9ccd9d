"""Streams of events, however the network cuts them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.client.api.sse import Event, EventParser
from app.client.errors import NoAnswer

STREAM = (
    "\ufeff:\n\n"
    "id: 1\nevent: next\ndata: {}\n\n"
    ": heartbeat\n\n"
    "event: next\r\ndata: zwei\r\ndata:  Zeilen ü\u2028\r\n\r\n"
    "id: 2\rdata:mac\r\r"
    "id: bad\0\nretry: 5\nunknown: x\nnocolon\n\n"
    "id\nevent: complete\ndata:\n\n"
    "data: never finished\n"
).encode()
EVENTS = [
    Event("next", "{}", "1"),
    Event("next", "zwei\n Zeilen ü\u2028", "1"),
    Event("message", "mac", "2"),
    Event("complete", "", ""),
]


def test_a_stream_is_read_as_the_standard_says() -> None:
    assert EventParser().feed(STREAM) == EVENTS


def test_a_stream_may_be_cut_at_any_one_place() -> None:
    for place in range(len(STREAM)):
        parser = EventParser()
        assert [*parser.feed(STREAM[:place]), *parser.feed(STREAM[place:])] == EVENTS, place


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_it_does_not_matter_how_a_stream_is_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    parser = EventParser()

    found = [event for start, end in pairwise(places) for event in parser.feed(STREAM[start:end])]

    assert found == EVENTS


def test_an_event_without_end_is_given_up_before_it_fills_the_memory() -> None:
    parser = EventParser()

    with pytest.raises(NoAnswer):
        [parser.feed(b"data: " + b"x" * 1024 * 1024) for _ in range(20)]


def test_a_long_stream_of_small_events_is_not_taken_for_one() -> None:
    parser = EventParser()

    found = [event for _ in range(20) for event in parser.feed(b"data: " + b"x" * 1024 * 1024 + b"\n\n")]

    assert len(found) == 20
