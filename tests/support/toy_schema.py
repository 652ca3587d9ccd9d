"""A small library as a GraphQL API, to test transports and limits."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import strawberry
from starlette.requests import HTTPConnection
from strawberry.schema.config import StrawberryConfig

from app.errors import Conflict, NotAuthenticated, NotFound
from app.graphql.limits.query_limits import QueryLimits
from app.graphql.limits.within_limits import limit_extensions
from app.graphql.masking import GatewaySchema
from app.graphql.protocols import Authenticate
from app.graphql.scalars import SCALARS, URL, ByteSize, EventCursor
from app.graphql.transport.asgi import GatewayGraphQL
from app.graphql.turns import Turn
from app.viewer import ANONYMOUS, Viewer

SECRET = "the password is swordfish"
FAR_AWAY = datetime(2100, 1, 1, tzinfo=UTC)
CALLERS = {"good": Viewer("Ada", "Ada"), "expiring": Viewer("Ada", "Ada", FAR_AWAY)}


async def authenticate(token: str | None) -> Viewer:
    if token == "broken":
        raise RuntimeError(SECRET)
    if token is not None and token not in CALLERS:
        raise NotAuthenticated("This token is not known.")
    return CALLERS[token] if token else ANONYMOUS


@dataclass
class Hub:
    """Sends news to all listeners; `None` ends the news, an exception breaks them."""

    queues: list[asyncio.Queue[Any]] = field(default_factory=list)
    listening: asyncio.Condition = field(default_factory=asyncio.Condition)
    printed: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def listen(self) -> AsyncGenerator[Any, None]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        await self._change(self.queues.append, queue)
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            await self._change(self.queues.remove, queue)

    def publish(self, item: Any) -> None:
        for queue in self.queues:
            queue.put_nowait(item)

    async def listeners(self, count: int) -> None:
        """Returns as soon as there are exactly `count` listeners."""
        async with self.listening:
            await self.listening.wait_for(lambda: len(self.queues) == count)

    async def _change(self, change: Callable[[asyncio.Queue[Any]], None], queue: asyncio.Queue[Any]) -> None:
        change(queue)
        async with self.listening:
            self.listening.notify_all()


@dataclass
class ToyContext:
    hub: Hub
    connection: HTTPConnection
    viewer: Viewer
    correlation_id: str
    event_id: str | None = None
    finished_events: int = 0
    turn: Turn | None = None

    async def starting(self) -> None:
        if self.turn is not None:
            await self.turn.start_alone()

    def waiting(self) -> None:
        if self.turn is not None:
            self.turn.end()

    def finish_event(self) -> None:
        self.event_id = None
        self.finished_events += 1


Info = strawberry.Info[ToyContext, None]
First = Annotated[int | None, strawberry.argument(description="How many from the start.")]


@strawberry.interface
class Node:
    id: strawberry.ID


@strawberry.type
class Book(Node):
    title: str
    size: ByteSize
    published: datetime

    @strawberry.field
    def cover(self) -> URL:
        return URL("https://library.example/cover")

    @strawberry.field
    def sequels(self, first: First = None, last: int | None = None) -> "BookConnection":
        return library(first or last or 0)

    @strawberry.field
    def prequel(self) -> "Book | None":
        return None


@strawberry.type
class BookEdge:
    cursor: str
    node: Book


@strawberry.type
class BookConnection:
    nodes: list[Book]

    @strawberry.field
    def edges(self) -> list[BookEdge]:
        return [BookEdge(cursor=str(book.id), node=book) for book in self.nodes]


def book(number: int) -> Book:
    return Book(
        id=strawberry.ID(str(number)),
        title=f"Volume {number}",
        size=ByteSize(5_000_000_000),
        published=datetime(2026, 1, 31, 12, tzinfo=UTC),
    )


def library(count: int) -> BookConnection:
    return BookConnection(nodes=[book(number) for number in range(count)])


@strawberry.type
class Shelf(Node):
    @strawberry.field
    def books(self, first: First = None) -> BookConnection:
        return library(first or 0)


@strawberry.type
class Query:
    @strawberry.field
    def hello(self) -> str:
        return "world"

    @strawberry.field
    def books(self, first: First = None, last: int | None = None) -> BookConnection | None:
        return library(first or last or 0)

    @strawberry.field
    def book(self, id: strawberry.ID) -> Book | None:
        return book(int(id))

    @strawberry.field
    def nodes(self, ids: list[strawberry.ID]) -> list[Node | None]:
        return [book(int(id_)) for id_ in ids]

    @strawberry.field
    def shelves(self) -> list[Shelf] | None:
        return [Shelf(id=strawberry.ID("1"))]

    @strawberry.field
    def bug(self) -> str | None:
        raise RuntimeError(SECRET)

    @strawberry.field
    def mistake(self) -> str | None:
        raise NotFound("There is no such book.", field=("id",), hint="Look at the shelf.")

    @strawberry.field
    def broken_promise(self) -> str:
        return None  # type: ignore[return-value]

    @strawberry.field
    def unserializable(self) -> ByteSize | None:
        return ByteSize(2**70)

    @strawberry.field
    def echo_size(self, size: ByteSize) -> ByteSize:
        return size

    @strawberry.field
    def echo_instant(self, instant: datetime) -> datetime:
        return instant

    @strawberry.field
    def echo_cursor(self, cursor: EventCursor) -> EventCursor:
        return cursor

    @strawberry.field
    def echo_url(self, url: URL) -> URL:
        return url

    @strawberry.field
    def times(self, number: int = 1) -> int:
        return number

    @strawberry.field
    async def next_news(self, info: Info) -> str | None:
        return await anext(info.context.hub.listen(), None)

    @strawberry.field
    def who(self, info: Info) -> str | None:
        return info.context.viewer.name


@strawberry.type
class Mutation:
    @strawberry.mutation
    def add_book(self, title: str) -> Book | None:
        raise Conflict(f"{title} is here already.")

    @strawberry.mutation
    async def print_news(self, info: Info) -> str | None:
        """Waits for the next news, and returns when they are printed."""
        text: str = await anext(info.context.hub.listen())
        await info.context.hub.printed.put(text)
        return text

    @strawberry.mutation
    def rename_book(self, id: strawberry.ID, title: str) -> Book | None:
        renamed = book(int(id))
        renamed.title = title
        return renamed


@strawberry.type
class News:
    cursor: EventCursor
    text: str

    @strawberry.field
    def bug(self) -> str | None:
        raise RuntimeError(SECRET)

    @strawberry.field
    def finished_events(self, info: Info) -> int:
        return info.context.finished_events


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def news(self, info: Info) -> AsyncGenerator[News, None]:
        since = info.context.connection.headers.get("last-event-id") if info.context.connection else None
        if since:
            yield News(cursor=EventCursor(since), text=f"after {since}")
        info.context.waiting()
        async for text in info.context.hub.listen():
            info.context.event_id = f"c-{text}"
            yield News(cursor=EventCursor(f"c-{text}"), text=text)

    @strawberry.subscription
    async def count(self, info: Info, to: int) -> AsyncGenerator[int, None]:
        for number in range(1, to + 1):
            info.context.event_id = str(number)
            yield number

    @strawberry.subscription
    async def resumed(self, info: Info) -> AsyncGenerator[str, None]:
        yield info.context.connection.headers.get("last-event-id", "from the start")


def toy_schema(limits: QueryLimits | None = None) -> GatewaySchema:
    return GatewaySchema(
        Query,
        Mutation,
        Subscription,
        config=StrawberryConfig(scalar_map=SCALARS),
        extensions=limit_extensions(limits or QueryLimits()),
    )


def toy_app(
    hub: Hub | None = None,
    limits: QueryLimits | None = None,
    *,
    authenticate: Authenticate = authenticate,
    **options: Any,
) -> GatewayGraphQL:
    """The endpoint of the library. The other options are those of GatewayGraphQL, too."""
    hub = hub or Hub()

    def make_context(connection: HTTPConnection, viewer: Viewer, correlation_id: str) -> ToyContext:
        return ToyContext(hub, connection, viewer, correlation_id)

    return GatewayGraphQL(
        toy_schema(limits),
        authenticate=authenticate,
        make_context=make_context,
        limits=limits,
        **options,
    )
