"""The GraphQL endpoint: the schema behind the transports, with callers known by their tokens."""

from functools import cache

from starlette.requests import HTTPConnection

from app.adapters.tokens import Tokens
from app.catalog.people.revocations import Revocations
from app.graphql.admission import CallerLimits
from app.graphql.context import Context, Gateway
from app.graphql.limits.query_limits import QueryLimits
from app.graphql.masking import GatewaySchema
from app.graphql.protocols import Authenticate
from app.graphql.schema import build_schema
from app.graphql.transport.asgi import Explorer, GatewayGraphQL
from app.settings import Settings
from app.viewer import ANONYMOUS, Viewer

_LIMITS = QueryLimits()


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

    def make_context(connection: HTTPConnection, viewer: Viewer, correlation_id: str) -> Context:
        # A socket authenticates once; and while a body arrived, the token may have been revoked.
        revocations.require_valid(viewer)
        return Context(gateway, viewer, correlation_id, connection)

    endpoint = GatewayGraphQL(
        _schema(),
        authenticate=authenticate,
        make_context=make_context,
        limits=_LIMITS,
        caller_limits=_caller_limits(gateway.catalogue.settings),
        explorer=explorer,
        allowed_origins=gateway.catalogue.settings.allowed_origins,
    )
    revocations.on_change = lambda: endpoint.end_invalid(revocations.revoked)
    return endpoint


@cache
def _schema() -> GatewaySchema:
    """The schema, built once per process: it depends on no gateway, and tests start hundreds of them."""
    return build_schema(_LIMITS)


def _caller_limits(settings: Settings) -> CallerLimits:
    return CallerLimits(
        anonymous_requests_per_minute=settings.anonymous_requests_per_minute,
        subscriptions=settings.subscriptions_per_subject,
        sockets=settings.sockets_per_subject,
        body_seconds=settings.body_seconds,
    )
