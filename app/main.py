"""Assembles the API; no other module does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from app.adapters.chosen import Messaging, reserve_of, storage_of
from app.adapters.folder.store import FolderStore
from app.adapters.tokens import SecretTokens, tokens_of
from app.catalog import uploads
from app.catalog.catalogue import Catalogue
from app.catalog.feed.live import Feed
from app.catalog.feed.progress import ProgressBoard, Throttle
from app.catalog.people.revocations import Revocations
from app.catalog.signed_requests import SignedRequests
from app.catalog.upload_progress import UploadMeter
from app.database.sessions import Database
from app.graphql.context import Gateway
from app.graphql.endpoint import authenticator, graphql_endpoint
from app.graphql.protocols import bearer_token
from app.graphql.transport.asgi import GatewayGraphQL
from app.ports import Wakeups
from app.settings import Settings
from app.web.graphiql import graphiql_assets, graphiql_page
from app.web.health import health_routes
from app.web.metrics import metrics_route
from app.web.objects import object_routes
from app.web.sign_in import SignIn


def create_app(settings: Settings, channels: Messaging) -> tuple[Starlette, GatewayGraphQL]:
    """The ASGI application and its GraphQL endpoint, which has to be shut down first."""
    queue, wakeups = channels.queue, channels.wakeups
    reserve = reserve_of(settings)
    database = Database(
        settings.database_address, channels.announce, connections=settings.database_connections, reserve=reserve
    )
    storage = storage_of(settings)
    catalogue = Catalogue(database, storage.store, settings)
    board = ProgressBoard()
    revocations = Revocations(database)
    feed = Feed(database, wakeups, board, settings.feed_ring, settings.poll_seconds, revocations.refresh)
    gateway = Gateway(catalogue, feed, board)

    tokens = tokens_of(settings)
    own_tokens = tokens if isinstance(tokens, SecretTokens) else None

    async def explorer(_request: Request) -> Response:
        return graphiql_page(embedded=own_tokens is not None)

    authenticate = authenticator(tokens, revocations)
    endpoint = graphql_endpoint(gateway, authenticate, revocations, explorer)
    sign_in = SignIn(database, own_tokens, settings.public_url)

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
            storage.close()

    async def home(_request: Request) -> Response:
        return RedirectResponse("/graphql")

    routes: list[BaseRoute] = [
        Route("/", home),
        Route("/graphql", endpoint),
        WebSocketRoute("/graphql", endpoint),
        Route("/graphiql/signin", sign_in.answer, methods=["POST", "GET", "PUT", "PATCH", "DELETE"]),
        graphiql_assets(),
        *health_routes({"database": database.check, "store": storage.store.check}, {"broker": queue.check}),
    ]
    if settings.metrics_port is None:
        routes.append(metrics_route(lambda request: authenticate(bearer_token(request.headers.get("authorization")))))
    # An S3 store serves the bytes itself.
    routes += storage.by_kind(lambda folder: _object_routes(folder, catalogue, wakeups), lambda _: [])
    app = Starlette(routes=routes, lifespan=lifespan, middleware=_cross_origin(settings))
    return app, endpoint


def _object_routes(store: FolderStore, catalogue: Catalogue, wakeups: Wakeups) -> list[Route]:
    """The routes through which clients upload to a folder and download from it."""
    settings = catalogue.settings
    meter = UploadMeter(catalogue, wakeups, Throttle(settings.progress_seconds))
    return object_routes(
        store,
        partial(uploads.head_arrived, catalogue),
        meter.arrived,
        permission=SignedRequests(catalogue),
        allowed_origins=settings.allowed_origins,
    )


def _cross_origin(settings: Settings) -> list[Middleware]:
    """Allows browser pages of the configured origins to call the API."""
    if not settings.allowed_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "last-event-id", "x-correlation-id", "x-project"],
            expose_headers=["x-correlation-id"],
        )
    ]
