"""Reads a list of the API to its end, page by page."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from app.client.api.gateway import Api
from app.client.errors import ClientError


async def read_all(
    api: Api, document: str, path: Sequence[str], absent: ClientError, **variables: Any
) -> AsyncIterator[dict[str, Any]]:
    """Each node of the connection that lies at `path` in the answers to `document`, which takes $after.

    Raises ClientError: what the gateway says, and `absent` where it gives null instead of a list.
    """
    after: str | None = None
    while True:
        page: Any = await api.query(document, after=after, **variables)
        for name in path:
            page = (page or {}).get(name)
        if page is None:
            raise absent
        for node in page["nodes"]:
            yield node
        if not page["pageInfo"]["hasNextPage"]:
            return
        after = page["pageInfo"]["endCursor"]
