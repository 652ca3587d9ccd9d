"""Revisions: who says which one they have read overwrites nobody (docs/api.md, rule 8)."""

from app.errors import StaleRevision


def require_revision(revision: int, expected: int | None, thing: str = "image") -> None:
    """Raises StaleRevision when a revision is expected, and is another than the thing has by now."""
    if expected is not None and expected != revision:
        raise StaleRevision(
            f"The {thing} is at revision {revision}, not {expected}.",
            field=("expectedRevision",),
            hint="Read it again, and decide whether your change still fits.",
        )
