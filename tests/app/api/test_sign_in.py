"""One-time codes for browsers: exchanged once, by the gateway's own page, for a token of a day."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.routing import Route

from app.adapters.tokens import SecretTokens
from app.catalog.people import sign_in
from app.catalog.people.revocations import revoke_tokens
from app.web.sign_in import SignIn
from tests.support.gateway import ADMIN, READER, SECRET, Gateway, until

pytestmark = pytest.mark.anyio

PATH = "/graphiql/signin"
USED_UP = {
    "code": "CODE_REFUSED",
    "message": "This sign-in URL was already used, was replaced, or has expired.",
    "hint": "Run `images signin` to get a new one.",
}


async def exchanged(gateway: Gateway, code: str, **headers: str) -> httpx.Response:
    return await gateway.client.post(PATH, json={"code": code}, headers=headers)


async def who_is(gateway: Gateway, token: str) -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    return (await gateway.client.post("/graphql", json={"query": "{ viewer { subject } }"}, headers=headers)).json()


@pytest.fixture
async def alone(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """The endpoint alone, with its own count of wrong codes and a stopped clock."""
    endpoint = SignIn(gateway.database, SecretTokens(SECRET.encode()), clock=lambda: 1000.0)
    app = Starlette(routes=[Route(PATH, endpoint.answer, methods=["POST"])])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        yield client


async def test_a_code_is_exchanged_once_for_a_token_of_one_day(gateway: Gateway) -> None:
    code = await sign_in.new_code(gateway.database, ADMIN)

    first, second = await exchanged(gateway, code), await exchanged(gateway, code)

    token = first.json()["token"]
    assert (await who_is(gateway, token))["data"]["viewer"]["subject"] == ADMIN
    viewer = await gateway.tokens.viewer(token)
    assert viewer.expires_at is not None
    assert timedelta(hours=23) < viewer.expires_at - datetime.now(UTC) <= timedelta(days=1)
    assert first.headers["Cache-Control"] == "no-store"
    assert (second.status_code, second.json()) == (403, {"error": USED_UP})


async def test_of_many_that_bring_one_code_at_once_one_gets_a_token(gateway: Gateway) -> None:
    code = await sign_in.new_code(gateway.database, ADMIN)

    answers = await asyncio.gather(*(exchanged(gateway, code) for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [200, *[403] * 7]


async def test_a_newer_code_replaces_that_of_the_same_subject_alone(gateway: Gateway) -> None:
    others = await sign_in.new_code(gateway.database, READER)
    older, newer = [await sign_in.new_code(gateway.database, ADMIN) for _ in range(2)]

    statuses = [(await exchanged(gateway, code)).status_code for code in (older, newer, others)]

    assert statuses == [403, 200, 200]


async def test_a_code_that_was_not_used_for_a_day_has_expired(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = await sign_in.new_code(gateway.database, ADMIN)
    monkeypatch.setattr(sign_in, "now", lambda: datetime.now(UTC) + timedelta(days=1))

    answer = await exchanged(gateway, code)

    assert (answer.status_code, answer.json()["error"]) == (403, USED_UP)


async def test_the_database_does_not_hold_the_code(gateway: Gateway) -> None:
    code = await sign_in.new_code(gateway.database, ADMIN)

    async with gateway.database.read() as session:
        rows = (await session.execute(text("SELECT * FROM sign_in_code"))).all()

    assert rows
    assert code not in str(rows)


async def test_a_revocation_covers_codes_and_the_tokens_that_they_gave(gateway: Gateway) -> None:
    subject = "revoked in a browser"
    token = (await exchanged(gateway, await sign_in.new_code(gateway.database, subject))).json()["token"]
    unused = await sign_in.new_code(gateway.database, subject)

    await revoke_tokens(gateway.database, subject)

    assert (await exchanged(gateway, unused)).status_code == 403

    async def refused() -> Any:
        return (await who_is(gateway, token)).get("errors")

    assert (await until(refused))[0]["message"] == "the token was revoked: get a new one"
    fresh = (await exchanged(gateway, await sign_in.new_code(gateway.database, subject))).json()["token"]
    assert (await who_is(gateway, fresh))["data"]["viewer"]["subject"] == subject


async def test_a_code_makes_an_operator_only_when_it_was_made_so(gateway: Gateway) -> None:
    for operator in (False, True):
        code = await sign_in.new_code(gateway.database, "olga", operator=operator)
        token = (await exchanged(gateway, code)).json()["token"]
        assert (await gateway.tokens.viewer(token)).operator is operator


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://gateway.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://gateway"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
async def test_a_page_of_another_origin_gets_nothing_for_a_code(gateway: Gateway, headers: dict[str, str]) -> None:
    code = await sign_in.new_code(gateway.database, ADMIN)

    answer = await exchanged(gateway, code, **headers)

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "CROSS_ORIGIN")
    assert (await exchanged(gateway, code)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://gateway"}, {"Sec-Fetch-Site": "same-origin", "Origin": "https://images.example.org"}],
    ids=str,
)
async def test_the_gateways_own_page_gets_a_token_behind_a_proxy_too(gateway: Gateway, headers: dict[str, str]) -> None:
    code = await sign_in.new_code(gateway.database, ADMIN)

    assert (await exchanged(gateway, code, **headers)).status_code == 200


@pytest.mark.parametrize(
    ("content", "media_type", "status", "code"),
    [
        (b'{"code": "x"}', "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (b"code=x", "application/x-www-form-urlencoded", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (b"no JSON", "application/json", 400, "BAD_REQUEST"),
        (b"[" * 1000, "application/json", 400, "BAD_REQUEST"),
        (b"[]", "application/json", 400, "BAD_REQUEST"),
        (b'{"code": 7}', "application/json", 400, "BAD_REQUEST"),
        (b'{"code": "' + b"x" * 2000 + b'"}', "application/json", 413, "BODY_TOO_LARGE"),
        (b'{"code": ""}', "application/json", 403, "CODE_REFUSED"),
        (b'{"code": "\\ud800"}', "application/json", 403, "CODE_REFUSED"),
        ('{"code": "' + "é" * 43 + '"}', "application/json; charset=utf-8", 403, "CODE_REFUSED"),
    ],
)
async def test_what_is_no_code_is_refused(
    alone: httpx.AsyncClient, content: bytes | str, media_type: str, status: int, code: str
) -> None:
    answer = await alone.post(PATH, content=content, headers={"Content-Type": media_type})

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_code_is_taken_by_post_alone(gateway: Gateway, method: str) -> None:
    answer = await gateway.client.request(method, PATH)

    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


async def test_wrong_codes_are_bounded_and_a_right_one_waits(gateway: Gateway, alone: httpx.AsyncClient) -> None:
    code = await sign_in.new_code(gateway.database, ADMIN)
    wrong = [(await alone.post(PATH, json={"code": "x" * 43})).status_code for _ in range(20)]

    answer = await alone.post(PATH, json={"code": code})

    assert wrong == [403] * 20
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "60")
    assert answer.json()["error"]["hint"] == "Wait 60 seconds, or paste a token."
    assert (await exchanged(gateway, code)).status_code == 200


async def test_no_code_works_where_an_issuer_signs_people_in(gateway: Gateway) -> None:
    code = await sign_in.new_code(gateway.database, ADMIN)
    endpoint = SignIn(gateway.database, None)
    app = Starlette(routes=[Route(PATH, endpoint.answer, methods=["POST"])])

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        answer = await client.post(PATH, json={"code": code})

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "CODE_REFUSED")
