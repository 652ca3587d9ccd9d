"""Whether a page takes longer when there are more images, on SQLite and on PostgreSQL, and how many each returns."""

import asyncio
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

from app.catalog.images import ImageOrder
from app.graphql.types.connections import cursor_for
from tests.bench.asking import CONNECTIONS, Rate, connected, rate, request, timed
from tests.bench.databases import POSTGRESQL, SQLITE, Databases, databases
from tests.bench.figures import Figure, Report, middle, quantile, seconds
from tests.bench.filling import ADMIN, RARE, RARE_WORD, fill, middle_of
from tests.bench.pages import FIELDS, OURS, PAGE
from tests.bench.scale import Scale
from tests.bench.serving import Gateway, running_api

_GOAL = 1.3
# How many times fewer images the small catalogue contains, but at least some pages.
_FEWER = 1000
_LEAST = 3 * PAGE
# How often each kind of page is asked for, unless the time is over.
_TIMES = 100
_ORDERS = (ImageOrder.NAME, ImageOrder.CREATED_AT, ImageOrder.SIZE)
_FILTERS: Mapping[str, Mapping[str, Any]] = {
    "all": {},
    "ACTIVE (97 of 100)": {"statuses": ["ACTIVE"]},
    f"ERROR ({RARE} in total)": {"statuses": ["ERROR"]},
    "SNAPSHOT (1 of 10)": {"types": ["SNAPSHOT"]},
    "ERROR or SAVING, CUSTOM": {"statuses": ["ERROR", "SAVING"], "types": ["CUSTOM"]},
    "name with ubuntu (1 of 4)": {"nameContains": "Ubuntu"},
    f"name with {RARE_WORD} ({RARE} in total)": {"nameContains": RARE_WORD},
}
_PAGE = f"""
query Page($project: ID!, $filter: ImageFilter, $order: ImageOrder, $after: String) {{
  images(projectId: $project, filter: $filter, orderBy: $order, first: {PAGE}, after: $after) {{ nodes {{ {FIELDS} }} }}
}}"""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A gateway on a database, and the cursors of the middle of its images, by the name of the order."""

    gateway: Gateway
    middles: Mapping[str, str]


def measure(scale: Scale) -> Report:
    """Ask for the same kinds of pages in turns: of few images and of many, on one database after the other."""
    few, many = max(_LEAST, scale.images // _FEWER), scale.images
    figures: list[Figure] = []
    with databases(scale.folder) as kinds, ExitStack() as stack:
        on: dict[str, Gateway] = {}
        for kind, make in kinds.items():
            small, large = (stack.enter_context(_catalogue(scale, kind, make, count)) for count in (few, many))
            on[kind] = small.gateway
            figures += _flatness(kind, small, large, len(_ORDERS) * scale.seconds)
        compared = list(_compared(on, scale))
    return Report(
        title="catalogue",
        how=f"A page of {PAGE} images over HTTP with 9 fields ({FIELDS}). First how many come in a second over "
        f"{CONNECTIONS} connections, of {few} images on PostgreSQL against SQLite, {scale.rounds} rounds of "
        f"{scale.seconds:g} s in turns. Then the p99 of a page when a project has {many} images against {few}, asked "
        "one after the other and in turns: by NAME, CREATED_AT and SIZE, in both directions, the first page and one "
        "behind the middle, all of these together. Rows are written straight into the tables.",
        figures=[*compared, *figures],
    )


@contextmanager
def _catalogue(scale: Scale, kind: str, make: Databases, count: int) -> Iterator[Catalogue]:
    place = make(scale.folder / f"{kind}-{count}")
    project_id = asyncio.run(fill(place.address, count))
    middles = {}
    for order in _ORDERS:
        found = asyncio.run(middle_of(place.address, project_id, order, count))
        for name in (_name(order, "ASC"), _name(order, "DESC")):
            middles[name] = cursor_for(name, found.key, found.id)
    with running_api(place.folder, place.settings, project_id, ADMIN) as gateway:
        yield Catalogue(gateway, middles)


def _flatness(kind: str, small: Catalogue, large: Catalogue, limit: float) -> Iterator[Figure]:
    with connected(small.gateway.host) as few, connected(large.gateway.host) as many:
        for name, filter_ in _FILTERS.items():
            requests = [list(_requests(catalogue, filter_)) for catalogue in (small, large)]
            of_few, of_many = _in_turns((few, many), requests, limit)
            yield _figure(f"{kind}, {name}", of_many, of_few)


def _in_turns(
    connections: Sequence[socket.socket], requests: Sequence[Sequence[bytes]], limit: float
) -> Sequence[Sequence[float]]:
    """How long each answer took, by connection. Every kind of page is asked for at least once, of both."""
    taken: Sequence[list[float]] = [[] for _ in connections]
    until = time.perf_counter() + limit
    for _ in range(_TIMES):
        for kinds in zip(*requests, strict=True):
            for connection, page, times in zip(connections, kinds, taken, strict=True):
                times.append(timed(connection, page))
        if time.perf_counter() > until:
            break
    return taken


def _requests(catalogue: Catalogue, filter_: Mapping[str, Any]) -> Iterator[bytes]:
    """The first page and one behind the middle, in each order and either direction."""
    gateway = catalogue.gateway
    for order, direction in product(_ORDERS, ("ASC", "DESC")):
        for after in (None, catalogue.middles[_name(order, direction)]):
            variables = {
                "project": gateway.project_id,
                "filter": filter_,
                "order": {"field": order.name, "direction": direction},
                "after": after,
            }
            yield request(gateway.host, "/graphql", _PAGE, variables, gateway.caller)


def _name(order: ImageOrder, direction: str) -> str:
    """What the cursors of an order are made for."""
    return f"images-{order}-{direction.lower()}"


def _figure(what: str, many: Sequence[float], few: Sequence[float]) -> Figure:
    measured, against = quantile(many, 0.99), quantile(few, 0.99)
    ratio = measured / against
    return Figure(what, seconds(measured), seconds(against), ratio, f"≤ {_GOAL}", ratio <= _GOAL)


def _compared(on: Mapping[str, Gateway], scale: Scale) -> Iterator[Figure]:
    rates: dict[str, list[Rate]] = {kind: [] for kind in on}
    for _ in range(scale.rounds):
        for kind, gateway in on.items():
            page = request(gateway.host, "/graphql", OURS, {"project": gateway.project_id}, gateway.caller)
            rates[kind].append(rate(gateway.process, gateway.host, page, scale.seconds))
    ours, bare = rates[POSTGRESQL], rates[SQLITE]
    yield _rates("pages in a second", [each.per_second for each in ours], [each.per_second for each in bare])
    yield _rates(
        "pages in a second of the API's processor time",
        [each.of_work for each in ours],
        [each.of_work for each in bare],
    )


def _rates(what: str, ours: Sequence[float], bare: Sequence[float]) -> Figure:
    measured, against = middle(ours), middle(bare)
    return Figure(what, f"{measured:.0f} requests", f"{against:.0f} requests", measured / against)
