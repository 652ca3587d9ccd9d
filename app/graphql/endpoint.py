"""The GraphQL endpoint: the schema behind the transports, with callers known by their tokens."""

from starlette.requests import HTTPConnection

from app.adapters.tokens import Tokens
from app.catalog.people.revocations import Revocations
from app.graphql.admission import CallerLimits
from app.graphql.context import Context, Gateway
from app.graphql.limits.query_limits import QueryLimits
from app.graphql.protocols import Authenticate
from app.graphql.schema import build_schema
from app.graphql.transport.asgi import Explorer, GatewayGraphQL
from app.settings import Settings
from app.viewer import ANONYMOUS, Viewer


def authenticator(tokens: Tokens, revocations: Revocations) -> Authenticate:
    """What says who holds a token, unless it was revoked."""

    async def authenticate(token: str | None) -> Viewer:
        if token is None:
            return ANONYMOUS
        viewer = await tokens.viewer(token)
        revocations.require_valid(viewer)
        return viewer

    return authenticate


def graphql_endpoint(
    gateway: Gateway, authenticate: Authenticate, revocations: Revocations, explorer: Explorer | None
) -> GatewayGraphQL:
    """The ASGI application to mount at /graphql. What is open ends when `revocations` covers its token."""
    limits = QueryLimits()

    def make_context(connection: HTTPConnection, viewer: Viewer, correlation_id: str) -> Context:
        # A socket authenticates once; and while a body arrived, the token may have been revoked.
        revocations.require_valid(viewer)
        return Context(gateway, viewer, correlation_id, connection)

    endpoint = GatewayGraphQL(
        build_schema(limits),
        authenticate=authenticate,
        make_context=make_context,
        limits=limits,
        caller_limits=_caller_limits(gateway.catalogue.settings),
        explorer=explorer,
        allowed_origins=gateway.catalogue.settings.allowed_origins,
    )
    revocations.on_change = lambda: endpoint.end_invalid(revocations.revoked)
    return endpoint


def _caller_limits(settings: Settings) -> CallerLimits:
    return CallerLimits(
        anonymous_requests_per_minute=settings.anonymous_requests_per_minute,
        subscriptions=settings.subscriptions_per_subject,
        sockets=settings.sockets_per_subject,
        body_seconds=settings.body_seconds,
    )
