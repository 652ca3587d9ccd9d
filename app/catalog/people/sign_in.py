"""One-time codes: what signs a browser in without a token on any page, in any log or in any address that is sent.

A code has 256 random bits, and the database keeps only its SHA-256. Finding the row by that digest takes no time
that depends on how much of a guess is right: a guess does not decide the first characters of its digest.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete
from sqlmodel import col, select

from app.catalog.people.revocations import newest_revocation
from app.database.postgres import Lock
from app.database.sessions import Database
from app.models import SignInCode, now

# How long a code waits to be used: `make run` prints one, and the browser may be opened much later.
CODE_VALIDITY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Whom a code signs in. `issued_after` is what their new token has to come after, see `revocations`."""

    subject: str
    name: str | None
    operator: bool
    issued_after: int


async def new_code(database: Database, subject: str, *, name: str | None = None, operator: bool = False) -> str:
    """A code that signs a browser in as `subject`, once, within a day. Their earlier unused code ends."""
    code = secrets.token_urlsafe(32)
    row = SignInCode(
        subject=subject, digest=_digest(code), name=name, operator=operator, expires_at=now() + CODE_VALIDITY
    )
    async with database.transaction() as tx:
        await tx.alone(Lock.TENANCY)
        await tx.session.merge(row)
    return code


async def redeem(database: Database, code: str) -> SignedIn | None:
    """Whom the code signs in; it is used up. None when there is no such code, or it was used or has expired."""
    digest = _digest(code)
    async with database.read() as session:
        # A wrong code takes no turn of SQLite's one writer.
        known = select(SignInCode.subject).where(SignInCode.digest == digest)
        if (await session.execute(known)).scalar_one_or_none() is None:
            return None
    async with database.transaction() as tx:
        # Of several that bring it at once, one deletes the row, and the others find none.
        used = delete(SignInCode).where(col(SignInCode.digest) == digest).returning(SignInCode)
        row = (await tx.session.execute(used)).scalar_one_or_none()
        if row is None or row.expires_at <= now():
            return None
        return SignedIn(row.subject, row.name, row.operator, await newest_revocation(tx.session, row.subject))


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode(errors="surrogatepass")).hexdigest()
