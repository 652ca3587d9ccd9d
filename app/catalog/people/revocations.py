"""Revoked tokens: for each subject, the time before which all issued tokens are invalid.

Each API process keeps the list in memory and refreshes it with the feed: when events arrive, before they are
delivered, and every IMAGES_POLL_SECONDS. Requests need no query.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import delete, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.database.postgres import Lock
from app.database.sessions import Database
from app.errors import NotAuthenticated
from app.models import SignInCode, TokenRevocation
from app.viewer import Viewer


@dataclass(slots=True)
class Revocations:
    """The revocations that this process knows. `on_change` is called when they change."""

    database: Database
    on_change: Callable[[], None] = lambda: None
    _not_before: Mapping[str, int] = field(default_factory=dict)
    # The number of revocations and the newest: they differ after every revocation.
    _version: tuple[int, int | None] = (0, None)

    async def refresh(self) -> None:
        """Read the revocations by other processes. Raises DatabaseUnavailable."""
        summary = select(func.count(), func.max(TokenRevocation.not_before)).select_from(TokenRevocation)
        async with self.database.read() as session:
            count, newest = (await session.execute(summary)).one()
            if (count, newest) == self._version:
                return
            rows = (await session.execute(select(TokenRevocation.subject, TokenRevocation.not_before))).all()
        self._not_before = {subject: not_before for subject, not_before in rows}
        self._version = (count, newest)
        self.on_change()

    def revoked(self, viewer: Viewer) -> bool:
        """Whether the viewer's token has been revoked."""
        return viewer.issued_after is not None and viewer.issued_after < self._not_before.get(viewer.subject, 0)

    def require_valid(self, viewer: Viewer) -> None:
        """Raises NotAuthenticated when the viewer's token has been revoked."""
        if self.revoked(viewer):
            raise NotAuthenticated("the token was revoked: get a new one")


async def newest_revocation(session: AsyncSession, subject: str) -> int:
    """The newest revocation of a subject's tokens, in microseconds since the epoch; 0 if there is none."""
    row = await session.get(TokenRevocation, subject)
    return 0 if row is None else row.not_before


async def revoke_tokens(database: Database, subject: str) -> None:
    """Revoke all tokens of a subject, and delete their unused sign-in code."""
    async with database.transaction() as tx:
        await tx.alone(Lock.TENANCY)
        newest = (await tx.session.execute(select(func.max(TokenRevocation.not_before)))).scalar() or 0
        # A clock that was set back must not make this revocation older than an earlier one.
        not_before = max(_microseconds(), newest + 1)
        await tx.session.merge(TokenRevocation(subject=subject, not_before=not_before))
        await tx.session.execute(delete(SignInCode).where(col(SignInCode.subject) == subject))


def _microseconds() -> int:
    return time.time_ns() // 1000
