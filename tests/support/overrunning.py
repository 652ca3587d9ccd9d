"""Projects with little room for images, and conversions that learn of it late."""

from dataclasses import replace
from typing import Any

import pytest

from app.catalog import conversions, quotas
from app.catalog.catalogue import Catalogue
from app.catalog.conversions import Assignment
from app.catalog.work.jobs import Claim
from app.models import Project
from tests.support.gateway import Gateway


async def limited(gateway: Gateway, limit: int) -> str:
    """A project with this limit on stored bytes."""
    project = await gateway.project()
    await gateway.change(Project, project, image_storage_limit=limit)
    return project


async def storage(gateway: Gateway, project: str) -> tuple[int, int]:
    """Bytes that a project uses, and that are promised."""
    async with gateway.database.read() as session:
        found = await quotas.quota_of(session, await session.get_one(Project, project), gateway.settings)
    return found.storage_used, found.storage_reserved


def see_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every conversion finds much room when it begins: what it misses in the end has been taken meanwhile."""
    real = conversions.begin

    async def begin(catalogue: Catalogue, claim: Claim[Any]) -> Assignment | None:
        assignment = await real(catalogue, claim)
        return assignment and replace(assignment, room=1 << 40)

    monkeypatch.setattr(conversions, "begin", begin)
