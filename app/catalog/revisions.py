"""Revisions: a client that states which one it has read never overwrites newer changes (docs/api.md, rule 8)."""

from app.errors import StaleRevision


def require_revision(revision: int, expected: int | None, thing: str = "image") -> None:
    """Raises StaleRevision when a revision is expected and differs from the current one."""
    if expected is not None and expected != revision:
        raise StaleRevision(
            f"The {thing} is at revision {revision}, not {expected}.",
            field=("expectedRevision",),
            hint="Read it again and check whether your change still applies.",
        )
