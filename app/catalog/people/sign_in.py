"""One-time codes: sign a browser in without a token on any page, in any log or in any URL that is sent.

A code has 256 random bits, and the database stores only its SHA-256. How long a lookup by that digest takes reveals
nothing about a guess: a guess that is partly right has a completely different digest.
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

# A day, since `make run` prints a code, and the browser may be opened much later.
CODE_VALIDITY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The user whom a code signs in. Their new token must be issued after `issued_after`, see `revocations`."""

    subject: str
    name: str | None
    operator: bool
    issued_after: int


async def new_code(database: Database, subject: str, *, name: str | None = None, operator: bool = False) -> str:
    """Create a code that signs a browser in as `subject`, once, within a day. It replaces their earlier unused code."""
    code = secrets.token_urlsafe(32)
    row = SignInCode(
        subject=subject, digest=_digest(code), name=name, operator=operator, expires_at=now() + CODE_VALIDITY
    )
    async with database.transaction() as tx:
        await tx.alone(Lock.TENANCY)
        await tx.session.merge(row)
    return code


async def redeem(database: Database, code: str) -> SignedIn | None:
    """Use up a code, and return whom it signs in; None when the code is unknown, used or expired."""
    digest = _digest(code)
    async with database.read() as session:
        # A wrong code does not occupy SQLite's only writer.
        known = select(SignInCode.subject).where(SignInCode.digest == digest)
        if (await session.execute(known)).scalar_one_or_none() is None:
            return None
    async with database.transaction() as tx:
        # Of several concurrent requests with the code, one deletes the row, and the others find none.
        used = delete(SignInCode).where(col(SignInCode.digest) == digest).returning(SignInCode)
        row = (await tx.session.execute(used)).scalar_one_or_none()
        if row is None or row.expires_at <= now():
            return None
        return SignedIn(row.subject, row.name, row.operator, await newest_revocation(tx.session, row.subject))


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode(errors="surrogatepass")).hexdigest()
