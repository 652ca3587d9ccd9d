"""The schema: queries, mutations and subscriptions, with the limits on a single operation."""

from collections.abc import Sequence

from strawberry.schema.config import StrawberryConfig

from app.graphql.limits.query_limits import QueryLimits
from app.graphql.limits.within_limits import limit_extensions
from app.graphql.masking import GatewaySchema
from app.graphql.measuring import Measured
from app.graphql.mutations import Mutation
from app.graphql.payloads import ByteQuotaError, CountQuotaError, InputError
from app.graphql.queries import Query
from app.graphql.reused_results import ReusingExecutor
from app.graphql.scalars import SCALARS
from app.graphql.subscriptions import Subscription
from app.graphql.types.image_events import (
    ImageCreated,
    ImageDeleted,
    ImageProgressed,
    ImageShareChanged,
    ImageStatusChanged,
    ImageUpdated,
)
from app.graphql.types.images import Image
from app.graphql.types.server_events import (
    ServerCreated,
    ServerDeleted,
    ServerStatusChanged,
    ServerUpdated,
    VolumeCreated,
    VolumeDeleted,
    VolumeUpdated,
)
from app.graphql.types.sharing import ImageShare
from app.graphql.types.tenancy import Organization, Project, Viewer
from app.graphql.types.uploads import ImageUpload

# Types that fields return only through an interface.
_IMPLEMENTATIONS: Sequence[type] = (
    ByteQuotaError,
    CountQuotaError,
    Image,
    ImageShare,
    ImageUpload,
    InputError,
    Organization,
    Project,
    Viewer,
    ImageCreated,
    ImageDeleted,
    ImageProgressed,
    ImageShareChanged,
    ImageStatusChanged,
    ImageUpdated,
    ServerCreated,
    ServerDeleted,
    ServerStatusChanged,
    ServerUpdated,
    VolumeCreated,
    VolumeDeleted,
    VolumeUpdated,
)


def build_schema(limits: QueryLimits | None = None, *, ordered: bool = False) -> GatewaySchema:
    """Build the schema with these limits. Use an `ordered` one only to print it: sorting breaks its unions."""
    return GatewaySchema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        types=_IMPLEMENTATIONS,
        execution_context_class=ReusingExecutor,
        config=StrawberryConfig(scalar_map=dict(SCALARS), sort_schema=ordered),
        extensions=[Measured, *limit_extensions(limits or QueryLimits())],
    )


def sdl() -> str:
    """The schema as text, in a fixed order: the content of `schema.graphql`."""
    return build_schema(ordered=True).as_str() + "\n"
