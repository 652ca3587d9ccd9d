"""The caller, as identified by a token. The catalogue decides what they may do, by their memberships."""

from dataclasses import dataclass
from datetime import datetime

from app.lifecycle import ROLE_RANK, ProjectRole


@dataclass(frozen=True, slots=True)
class Viewer:
    """A caller. `subject` is the token's `sub`, `expires_at` the end of its validity in UTC.

    `operator` is true when the token makes them an operator, who may do everything in every project. Without a token,
    the subject is empty, and no membership has that name. `issued_after` is the newest revocation before the token was
    issued, in microseconds since the epoch (see `catalog.people.revocations`); None for tokens that only their issuer
    can revoke.
    """

    subject: str
    name: str | None = None
    expires_at: datetime | None = None
    operator: bool = False
    issued_after: int | None = None

    @property
    def anonymous(self) -> bool:
        """Whether there was no token."""
        return not self.subject


ANONYMOUS = Viewer(subject="")


def includes(role: ProjectRole, needed: ProjectRole) -> bool:
    """Whether a role includes all rights of another."""
    return ROLE_RANK[role] >= ROLE_RANK[needed]
