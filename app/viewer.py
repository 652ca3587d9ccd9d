"""Who is calling, as their token says it. What they may do is decided by their memberships, in the catalogue."""

from dataclasses import dataclass
from datetime import datetime

from app.lifecycle import ROLE_RANK, ProjectRole


@dataclass(frozen=True, slots=True)
class Viewer:
    """A caller. `subject` is the token's `sub`, `expires_at` the end of its validity in UTC.

    `operator` says that the token makes them one: an operator may do everything in every project.
    Without a token the subject is empty: nobody is a member of anything by that name. `issued_after` is the
    newest revocation that the token came after, in microseconds since the epoch (see `catalog.revocations`);
    None for tokens that only their issuer can revoke.
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
    """Whether a role holds all the rights of another."""
    return ROLE_RANK[role] >= ROLE_RANK[needed]
