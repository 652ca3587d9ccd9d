"""Revoked tokens: refused on every request, and the end of what their holders watch, over every transport."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from sqlalchemy import text

from app.adapters.messaging.local_wakeups import LocalWakeups
from app.catalog.feed.live import Feed
from app.catalog.feed.progress import ProgressBoard
from app.catalog.people import revocations
from app.catalog.people.revocations import Revocations, newest_revocation, revoke_tokens
from app.database.sessions import Database
from app.errors import NotAuthenticated
from app.lifecycle import ProjectRole
from app.models import Membership
from app.viewer import Viewer
from tests.support.gateway import SECRET, Gateway, until
from tests.support.watchers import TRANSPORTS, Wanted, Watcher, served, watching

pytestmark = pytest.mark.anyio

EVENTS = """subscription ($project: ID!, $after: EventCursor!) {
  imageEvents(projectId: $project, after: $after, progress: false) { ... on ImageEvent { imageId } } }"""
WHO = "{ viewer { subject } }"
REVOKED = "the token was revoked: get a new one"
every_transport = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture(scope="module")
async def address(gateway: Gateway) -> AsyncIterator[str]:
    async with served(gateway.app, gateway.endpoint) as address:
        yield address


@pytest.fixture
async def subject(gateway: Gateway, request: pytest.FixtureRequest) -> str:
    """Somebody new, who may read the project alpha."""
    name = request.node.name
    async with gateway.database.transaction() as tx:
        tx.session.add(Membership(project_id=gateway.alpha, subject=name, role=ProjectRole.READER))
    return str(name)


async def answer_to(gateway: Gateway, token: str) -> Any:
    response = await gateway.client.post("/graphql", json={"query": WHO}, headers={"Authorization": f"Bearer {token}"})
    return response.status_code, response.json()


async def until_refused(gateway: Gateway, token: str) -> dict[str, Any]:
    async def refused() -> Any:
        status, body = await answer_to(gateway, token)
        return None if status == 200 else (status, body)

    status, body = await until(refused)
    assert status == 401
    (error,) = body["errors"]
    found: dict[str, Any] = error
    return found


@asynccontextmanager
async def seeing(gateway: Gateway, address: str, transport: str, token: str) -> AsyncIterator[Watcher]:
    """A watcher of the project alpha who has just seen the newest event."""
    cursor = (await gateway.ask("{ eventCursor }"))["eventCursor"]
    image = await gateway.create()
    wanted = Wanted(address, EVENTS, {"project": gateway.alpha, "after": cursor}, token)
    async with watching(transport, wanted) as watcher:
        assert await watcher.item() == {"imageId": image["id"]}
        yield watcher


async def new_token(gateway: Gateway, database: Database, subject: str) -> str:
    """A token as the commands issue it."""
    async with database.read() as session:
        return gateway.tokens.issue(subject, issued_after=await newest_revocation(session, subject))


@pytest.mark.parametrize("stamped", [True, False], ids=["of a command", "by its time of issue"])
async def test_a_revoked_token_is_refused_and_one_of_the_same_second_is_not(
    gateway: Gateway, other: Database, subject: str, stamped: bool
) -> None:
    async def issued() -> str:
        return await new_token(gateway, other, subject) if stamped else gateway.tokens.issue(subject)

    before, somebody_elses = await issued(), gateway.tokens.issue("somebody else")
    assert (await answer_to(gateway, before))[0] == 200

    await revoke_tokens(other, subject)
    at_once = await issued()

    error = await until_refused(gateway, before)
    assert (error["message"], error["extensions"]["code"]) == (REVOKED, "UNAUTHENTICATED")
    for token in (at_once, somebody_elses):
        assert (await answer_to(gateway, token))[0] == 200


async def test_revoking_again_covers_what_was_issued_between(gateway: Gateway, other: Database, subject: str) -> None:
    await revoke_tokens(other, subject)
    between = await new_token(gateway, other, subject)

    await revoke_tokens(other, subject)

    await until_refused(gateway, between)
    assert (await answer_to(gateway, await new_token(gateway, other, subject)))[0] == 200


@pytest.mark.parametrize("hours", [-1, 1])
async def test_clocks_that_differ_neither_save_a_token_nor_spoil_a_new_one(
    gateway: Gateway, other: Database, subject: str, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await new_token(gateway, other, subject)
    now = time.time_ns() // 1000
    monkeypatch.setattr(revocations, "_microseconds", lambda: now + hours * 3600 * 10**6)

    await revoke_tokens(other, subject)

    await until_refused(gateway, before)
    assert (await answer_to(gateway, await new_token(gateway, other, subject)))[0] == 200


async def test_a_token_that_does_not_say_how_old_it_is_is_revoked(
    gateway: Gateway, other: Database, subject: str
) -> None:
    token = jwt.encode({"sub": subject, "aud": "image-gateway", "exp": 2_000_000_000}, SECRET, "HS256")
    assert (await answer_to(gateway, token))[0] == 200

    await revoke_tokens(other, subject)

    await until_refused(gateway, token)


async def test_a_request_costs_no_query_for_its_token(gateway: Gateway) -> None:
    known = Revocations(gateway.database)
    await known.refresh()

    # A database that would not answer is not asked.
    known.database = Database("sqlite+aiosqlite:////nowhere/images.db")

    known.require_valid(Viewer("ada", issued_after=0))


@every_transport
async def test_a_revocation_ends_what_is_watched_and_says_so(
    gateway: Gateway, other: Database, subject: str, address: str, transport: str
) -> None:
    async with seeing(gateway, address, transport, gateway.tokens.issue(subject)) as watcher:
        await revoke_tokens(other, subject)

        answer = await watcher.next()
        if transport == "websocket":
            assert answer == {"closed": 4403}
        else:
            (error,) = answer["errors"]
            assert error["extensions"]["code"] == "TOKEN_EXPIRED"
            assert "revoked" in error["message"]
        assert await watcher.ended()


@every_transport
async def test_what_happens_after_a_revocation_is_not_delivered(
    gateway: Gateway, other: Database, subject: str, address: str, transport: str
) -> None:
    async with seeing(gateway, address, transport, gateway.tokens.issue(subject)) as watcher:
        await revoke_tokens(other, subject)
        await gateway.create()  # is announced in the process at once, unlike what another process revokes

        answer = await watcher.next()
        assert answer == {"closed": 4403} if transport == "websocket" else "errors" in answer


async def test_other_watchers_stay(gateway: Gateway, other: Database, address: str) -> None:
    async with seeing(gateway, address, "sse", gateway.token("ada")) as watcher:
        await revoke_tokens(other, "somebody else entirely")
        image = await gateway.create()

        assert await watcher.item() == {"imageId": image["id"]}


async def test_two_processes_agree_whatever_the_order(gateway: Gateway, other: Database) -> None:
    one, another = (Revocations(database) for database in (gateway.database, other))
    await one.refresh()
    for number in range(3):
        await revoke_tokens(other, f"subject {number}")
    await asyncio.gather(one.refresh(), another.refresh())

    for known in (one, another):
        for number in range(3):
            with pytest.raises(NotAuthenticated, match="revoked"):
                known.require_valid(Viewer(f"subject {number}", issued_after=0))
        known.require_valid(Viewer("an issuer's", issued_after=None))


async def test_a_revocation_that_was_restored_away_is_forgotten(gateway: Gateway, other: Database) -> None:
    known = Revocations(gateway.database)
    await revoke_tokens(other, "restored")
    await known.refresh()
    assert known.revoked(Viewer("restored", issued_after=0))

    async with other.transaction() as tx:
        await tx.session.execute(text("DELETE FROM token_revocation WHERE subject = 'restored'"))
    await known.refresh()

    assert not known.revoked(Viewer("restored", issued_after=0))


async def test_a_feed_looks_for_revocations_by_itself(gateway: Gateway, other: Database) -> None:
    changed = asyncio.Event()
    known = Revocations(gateway.database, on_change=changed.set)
    feed = Feed(gateway.database, LocalWakeups(), ProgressBoard(), 10, 0.02, known.refresh)
    await feed.start()
    changed.clear()
    running = asyncio.create_task(feed.run())

    await revoke_tokens(other, "nobody told the feed")

    async with asyncio.timeout(30):
        await changed.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_socket_that_stays_open_may_not_ask_with_a_revoked_token(
    gateway: Gateway, other: Database, subject: str
) -> None:
    viewer = await gateway.tokens.viewer(gateway.tokens.issue(subject))
    await revoke_tokens(other, subject)
    await until_refused(gateway, gateway.tokens.issue(subject, issued_after=0))

    # Each operation of a socket makes a context with the caller that the socket began with.
    with pytest.raises(NotAuthenticated, match="revoked"):
        gateway.endpoint._make_context(None, viewer, "id")  # type: ignore[arg-type]
