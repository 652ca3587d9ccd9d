"""The outbox: whoever has a message never waits; what waits is bounded, and the newest of its kind."""

import threading

from structlog.testing import capture_logs

from app.adapters.messaging.outbox import Outbox

_SECONDS = 30


class Gate:
    """A message that is being sent until the gate opens."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(_SECONDS)


def blocked(outbox: Outbox) -> Gate:
    """An outbox that is busy with a message that can't be sent right now."""
    gate = Gate()
    outbox.put("gate", gate)
    assert gate.reached.wait(_SECONDS)
    return gate


def test_nobody_waits_for_a_message_that_is_being_sent() -> None:
    outbox, sent = Outbox("test"), []
    gate = blocked(outbox)
    outbox.put(1, lambda: sent.append(1))
    outbox.put(2, lambda: sent.append(2))
    assert sent == []
    gate.opened.set()
    outbox.close()
    assert sent == [1, 2]


def test_a_newer_message_takes_the_place_of_one_that_still_waits() -> None:
    outbox, sent = Outbox("test"), []
    gate = blocked(outbox)
    for number in range(10):
        outbox.put("same", lambda number=number: sent.append(number))  # type: ignore[misc]
    gate.opened.set()
    outbox.close()
    assert sent == [9]


def test_when_too_many_wait_the_oldest_is_lost() -> None:
    outbox, sent = Outbox("test", limit=2), []
    gate = blocked(outbox)
    with capture_logs() as logs:
        for number in range(10):
            outbox.put(number, lambda number=number: sent.append(number))  # type: ignore[misc]
    gate.opened.set()
    outbox.close()
    assert sent == [8, 9]
    assert [line["event"] for line in logs] == ["message.lost"]


def test_one_that_fails_keeps_none_from_being_sent() -> None:
    outbox, sent = Outbox("test", lambda error: f"because {error}"), []

    def fail() -> None:
        raise ValueError("it fails")

    with capture_logs() as logs:
        for number in range(5):
            outbox.put(f"failing {number}", fail)
        outbox.put("good", lambda: sent.append(1))
        outbox.close()
    assert sent == [1]
    assert [(line["sender"], line["reason"]) for line in logs] == [("test", "because it fails")]


def test_a_closed_outbox_takes_nothing_and_waits_no_longer_than_it_is_told() -> None:
    outbox, sent = Outbox("test"), []
    gate = blocked(outbox)
    outbox.close(seconds=0)
    outbox.put(1, lambda: sent.append(1))
    gate.opened.set()
    outbox.close()
    assert sent == []


def test_closing_an_outbox_that_was_never_used_is_harmless() -> None:
    Outbox("test").close()
