"""Idempotency keys: a creation that is requested again returns what the first request created."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from app.catalog import texts
from app.database.sessions import Transaction
from app.errors import Conflict, InvalidInput, NotFound
from app.models import IdempotencyKey

Created = TypeVar("Created")

_MAXIMUM_KEY = 255
_FIELD = ("idempotencyKey",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that creates something in a project. Its other fields are values for JSON."""

    project_id: str
    idempotency_key: str | None = None

    def fingerprint(self) -> str:
        """A hash of the request without its idempotency key: equal requests have equal fingerprints."""
        said = {name: value for name, value in asdict(self).items() if name != "idempotency_key"}
        # It is younger than the fingerprints of earlier versions, which must stay the same.
        if not said.get("verify_boot"):
            said.pop("verify_boot", None)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def check_key(new: Request) -> None:
    """Raises InvalidInput when the request has an idempotency key that is not valid."""
    key = new.idempotency_key
    if key is None:
        return
    if not 1 <= len(key) <= _MAXIMUM_KEY:
        raise InvalidInput(f"An idempotency key must have 1 to {_MAXIMUM_KEY} characters.", field=_FIELD)
    texts.require_text(key, _FIELD)


async def made_before(session: AsyncSession, model: type[Created], new: Request) -> Created | None:
    """What an earlier request with the same idempotency key created: a row of `model`; None without one.

    Raises Conflict when that request was a different one, NotFound when its result has been deleted.
    """
    if new.idempotency_key is None:
        return None
    known = await session.get(IdempotencyKey, (new.project_id, new.idempotency_key))
    if known is None:
        return None
    thing = model.__name__.lower()
    if known.fingerprint != new.fingerprint():
        raise Conflict(
            "The idempotency key was already used for a different request.",
            field=_FIELD,
            hint=f"Use a new key for each new {thing}.",
        )
    row: Any = await session.get_one(model, known.created_id)
    if row.deleted_at is not None:
        raise NotFound(
            f"The {thing} created with this idempotency key has been deleted.", field=_FIELD, hint="Use a new key."
        )
    found: Created = row
    return found


def remember(tx: Transaction, new: Request, created_id: str) -> None:
    """Store the idempotency key of a request, if it has one, with the id of what it created."""
    if new.idempotency_key is not None:
        key = IdempotencyKey(
            project_id=new.project_id, key=new.idempotency_key, fingerprint=new.fingerprint(), created_id=created_id
        )
        tx.session.add(key)
