"""Watchers over SSE that come back when they are cut off, and have to see every event exactly once."""

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx

from tests.e2e.client import Client, eventually
from tests.soak.figures import Samples
from tests.soak.target import Target

_COUNT = 5
_EVENT = "__typename ... on ImageEvent { cursor occurredAt imageId }"
_WATCH = f"""
subscription Watch($project: ID!, $after: EventCursor) {{
  imageEvents(projectId: $project, after: $after, progress: false) {{
    {_EVENT} ... on ImageStatusChanged {{ from to }}
  }}
}}"""
_HISTORY = f"""
query History($project: ID!, $after: EventCursor) {{
  imageEvents(projectId: $project, first: 100, after: $after) {{
    nodes {{ {_EVENT} ... on ImageStatusChanged {{ from to }} }} pageInfo {{ hasNextPage }}
  }}
}}"""
# Cursors may differ from reader to reader; what happened to which image, and when, does not.
Event = tuple[str, ...]


class Watchers:
    """Watchers of the users' project."""

    def __init__(self, target: Target, samples: Samples) -> None:
        self._target, self._samples = target, samples
        self._start = ""
        self._seen: list[list[Event]] = [[] for _ in range(_COUNT)]

    def start(self) -> None:
        """Let them watch from now on."""
        with self._target.client() as client:
            self._start = client.ask("{ eventCursor }")["eventCursor"]
        for seen in self._seen:
            threading.Thread(target=self._watch, args=(seen,), daemon=True).start()

    def missed(self) -> list[str]:
        """What any of them missed or saw twice, once all that has happened has had a minute to arrive."""
        with self._target.client() as client:
            happened = Counter(self._history(client))
        try:
            eventually(lambda: all(sum(Counter(seen).values()) >= happened.total() for seen in self._seen))
        except AssertionError:
            pass
        return [wrong for number, seen in enumerate(self._seen, 1) for wrong in _compared(number, seen, happened)]

    @property
    def events(self) -> int:
        """How many they have seen, all together."""
        return sum(map(len, self._seen))

    def _watch(self, seen: list[Event]) -> None:
        after = self._start
        with self._target.client() as client:
            while True:
                try:
                    with client.stream(_WATCH, project=self._target.project, after=after) as answers:
                        for answer in answers:
                            item = answer["imageEvents"]
                            if "cursor" in item:
                                seen.append(_event(item))
                                after = item["cursor"]
                except (AssertionError, httpx.HTTPError) as error:
                    self._samples.failed(f"watcher: {type(error).__name__}: {str(error)[:200]}")
                    if isinstance(error, httpx.ConnectError):
                        return

    def _history(self, client: Client) -> Iterator[Event]:
        after, more = self._start, True
        while more:
            page = client.ask(_HISTORY, project=self._target.project, after=after)["imageEvents"]
            yield from map(_event, page["nodes"])
            more = page["pageInfo"]["hasNextPage"]
            after = page["nodes"][-1]["cursor"] if page["nodes"] else after


def _event(item: dict[str, Any]) -> Event:
    return (item["__typename"], item["imageId"], item["occurredAt"], str(item.get("from")), str(item.get("to")))


def _compared(number: int, seen: list[Event], happened: Counter[Event]) -> Iterator[str]:
    counted = Counter(seen)
    if lost := (happened - counted).total():
        yield f"watcher {number} missed {lost} of {happened.total()} events"
    if twice := (counted - happened).total():
        yield f"watcher {number} saw {twice} events that there were not, or twice"
