"""The only place where the API is wired together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute

from app.adapters.folder import FolderStore
from app.adapters.tokens import tokens_of
from app.catalog.metering import UploadMeter
from app.catalog.progress import ProgressBoard, Throttle
from app.catalog.uploads import Uploads
from app.catalog.watching import Feed
from app.database import Database
from app.graphql.context import Gateway
from app.graphql.endpoint import graphql_endpoint
from app.graphql.transport import GatewayGraphQL
from app.models import Event, Job
from app.ports import JobQueue, Wakeups
from app.settings import Settings
from app.web.graphiql import graphiql_assets, graphiql_page
from app.web.health import health_routes
from app.web.objects import object_routes


@dataclass(frozen=True, slots=True)
class Demo:
    """What GraphiQL fills in for a browser on this machine, in the embedded mode."""

    token: str
    project_id: str


def announcer(queue: JobQueue, wakeups: Wakeups) -> Callable[[list[Job], list[Event]], None]:
    """What happens after every commit: workers hear of jobs, watchers of events."""

    def announce(jobs: list[Job], events: list[Event]) -> None:
        for job in jobs:
            queue.send(job.kind, job.id)
        if events:
            wakeups.feed_grew()

    return announce


def create_app(
    settings: Settings, queue: JobQueue, wakeups: Wakeups, demo: Demo | None = None
) -> tuple[Starlette, GatewayGraphQL]:
    """The ASGI application, and its GraphQL endpoint, which has to be shut down first."""
    database = Database(settings.database_address, announcer(queue, wakeups))
    store = FolderStore(settings.objects_path, settings.secret_bytes)
    uploads = Uploads(database, store, settings)
    board = ProgressBoard()
    feed = Feed(database, wakeups, board, settings.feed_ring, settings.poll_seconds)
    gateway = Gateway(settings, database, store, uploads, feed, board)
    meter = UploadMeter(uploads, wakeups, Throttle(settings.progress_seconds))

    async def explorer(request: Request) -> Response:
        return graphiql_page(request, demo.token if demo else None, demo.project_id if demo else None)

    endpoint = graphql_endpoint(gateway, tokens_of(settings), explorer)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await feed.start()
        running = asyncio.create_task(feed.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await database.close()
            store.close()

    async def home(_request: Request) -> Response:
        return RedirectResponse("/graphql")

    routes = [
        Route("/", home),
        Route("/graphql", endpoint),
        WebSocketRoute("/graphql", endpoint),
        graphiql_assets(),
        *health_routes({"database": database.check, "store": store.check, "broker": queue.check}),
        *object_routes(store, uploads.head_arrived, meter.arrived, allowed_origins=settings.allowed_origins),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, middleware=_cross_origin(settings))
    return app, endpoint


def _cross_origin(settings: Settings) -> list[Middleware]:
    """Browser consoles of other origins may call the API when they are configured."""
    if not settings.allowed_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "last-event-id", "x-correlation-id"],
            expose_headers=["x-correlation-id"],
        )
    ]
