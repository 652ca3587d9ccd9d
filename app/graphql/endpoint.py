"""The GraphQL endpoint: the schema behind the transports, with callers known by their tokens."""

from typing import cast

from starlette.requests import HTTPConnection

from app.adapters.tokens import Tokens
from app.graphql.context import Context, Gateway
from app.graphql.contract import Caller
from app.graphql.limits import QueryLimits
from app.graphql.schema import build_schema
from app.graphql.transport import Explorer, GatewayGraphQL
from app.viewer import ANONYMOUS, Viewer


def graphql_endpoint(gateway: Gateway, tokens: Tokens, explorer: Explorer | None) -> GatewayGraphQL:
    """The ASGI application to mount at /graphql."""
    limits = QueryLimits()

    async def authenticate(token: str | None) -> Viewer:
        return ANONYMOUS if token is None else await tokens.viewer(token)

    def make_context(connection: HTTPConnection, viewer: Caller, correlation_id: str) -> Context:
        return Context(gateway, cast("Viewer", viewer), correlation_id, connection)

    return GatewayGraphQL(
        build_schema(limits),
        authenticate=authenticate,
        make_context=make_context,
        limits=limits,
        explorer=explorer,
        allowed_origins=gateway.settings.allowed_origins,
    )
