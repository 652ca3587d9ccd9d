"""What a gateway counts, who may read it, and that nothing a client sends makes it grow."""

import gc
import random
import string
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace

import pytest
from sqlalchemy import text

from app import metrics
from app.catalog import census, images, quotas
from app.catalog.people.revocations import Revocations
from app.database.sessions import Database
from app.errors import DatabaseUnavailable, ImageFailed, QuotaExceeded
from app.lifecycle import FailureCode
from app.metrics import CatalogueState
from app.models import Image, Project
from app.sizes import MIB
from tests.app.conftest import StartGateway
from tests.support.gateway import ADMIN, MEMBER, OPERATOR, READER, STRANGER, Gateway, until
from tests.support.scraped import Scrape
from tests.support.watchers import Wanted, served, watching
from workers.jobs.schedule import Schedule

pytestmark = pytest.mark.anyio

NAME = "{ viewer { name } }"
REQUESTS = "images_requests_total"


async def scrape(gateway: Gateway, subject: str | None = OPERATOR) -> Scrape:
    response = await gateway.client.get("/metrics", headers=gateway.credentials(subject))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == metrics.CONTENT_TYPE
    return Scrape.of(response.text)


# ------------------------------------------------------------ who may read it


async def test_an_operator_reads_the_metrics(gateway: Gateway) -> None:
    before = await scrape(gateway)

    await gateway.ask(NAME)

    assert (await scrape(gateway)).more(before, REQUESTS, operation="viewer", type="query", outcome="OK") == 1


@pytest.mark.parametrize("subject", [ADMIN, MEMBER, READER, STRANGER])
async def test_who_is_no_operator_is_refused(gateway: Gateway, subject: str) -> None:
    response = await gateway.client.get("/metrics", headers=gateway.credentials(subject))

    assert (response.status_code, response.json()["error"]["code"]) == (403, "FORBIDDEN")
    assert "images_" not in response.text


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer forged"}, {"Authorization": "Basic b3BzOm9wcw=="}])
async def test_without_a_valid_token_the_answer_asks_for_one(gateway: Gateway, headers: dict[str, str]) -> None:
    response = await gateway.client.get("/metrics", headers=headers)

    assert (response.status_code, response.json()["error"]["code"]) == (401, "UNAUTHENTICATED")
    assert response.headers["www-authenticate"] == "Bearer"
    assert "IMAGES_METRICS_PORT" in response.json()["error"]["hint"]


async def test_with_a_port_of_its_own_the_api_serves_no_metrics(start_gateway: StartGateway) -> None:
    async with start_gateway(metrics_port=9464) as gateway:
        response = await gateway.client.get("/metrics", headers=gateway.credentials(OPERATOR))

    assert response.status_code == 404


# ------------------------------------------------------------ operations


@pytest.mark.parametrize(
    ("document", "labels"),
    [
        ("query MyOwnName { mine: viewer { name } }", {"operation": "viewer", "type": "query", "outcome": "OK"}),
        ("{ ...a } fragment a on Query { viewer { name } }", {"operation": "viewer", "outcome": "OK"}),
        ("{ viewer { name } eventCursor }", {"operation": "several", "type": "query", "outcome": "OK"}),
        ("{ __schema { queryType { name } } }", {"operation": "introspection", "type": "query", "outcome": "OK"}),
        ("{ __typename viewer { name } }", {"operation": "viewer", "outcome": "OK"}),
        ('{ project(id: "x") { id } }', {"operation": "project", "type": "query", "outcome": "ERROR"}),
        ("{ viewer { secret } }", {"operation": "viewer", "type": "query", "outcome": "REFUSED"}),
        ("{ nothingOfOurs }", {"operation": "other", "type": "query", "outcome": "REFUSED"}),
        ("{ viewer", {"operation": "other", "type": "unknown", "outcome": "REFUSED"}),
        ("query a { viewer { name } } query b { eventCursor }", {"operation": "other", "outcome": "REFUSED"}),
        ("subscription { image(id: 1) { id } }", {"operation": "image", "type": "subscription", "outcome": "REFUSED"}),
    ],
)
async def test_an_operation_is_counted_by_its_root_field(
    gateway: Gateway, document: str, labels: dict[str, str]
) -> None:
    before = Scrape.here()

    await gateway.answer(document)

    after = Scrape.here()
    assert after.more(before, REQUESTS, **labels) == 1
    assert after.more(before, REQUESTS) == 1
    timed = labels.get("type") != "subscription"
    assert after.more(before, "images_request_seconds_count", operation=labels["operation"]) == timed


async def test_an_operation_without_a_token_is_counted_as_refused(gateway: Gateway) -> None:
    before = Scrape.here()

    await gateway.answer(NAME, subject=None)

    after = Scrape.here()
    assert after.more(before, REQUESTS, operation="viewer", outcome="REFUSED") == 1
    assert after.more(before, "images_errors_total", where="graphql", code="UNAUTHENTICATED") == 1


async def test_a_mistake_in_a_mutation_is_counted_by_its_code(gateway: Gateway) -> None:
    before = Scrape.here()

    await gateway.mutate("deleteImage", {"imageId": "img_none"})

    after = Scrape.here()
    assert after.more(before, "images_errors_total", where="user_errors", code="NOT_FOUND") == 1
    assert after.more(before, REQUESTS, operation="deleteImage", type="mutation", outcome="OK") == 1


async def test_what_the_objects_endpoint_refuses_is_counted_by_its_code(gateway: Gateway) -> None:
    before = Scrape.here()

    await gateway.client.delete("/objects/uploads/x")

    assert Scrape.here().more(before, "images_errors_total", where="objects", code="METHOD_NOT_ALLOWED") == 1


async def test_names_that_clients_choose_do_not_make_the_page_grow(gateway: Gateway) -> None:
    some = random.Random(12)

    def document() -> str:
        name, alias, field = ("".join(some.choices(string.ascii_letters, k=12)) for _ in range(3))
        kind = some.choice(["query", "mutation", "subscription"])
        return some.choice(
            [
                f"query {name} {{ {alias}: viewer {{ name }} }}",
                f"query {name} {{ {alias}: viewer {{ name }} {field}: eventCursor }}",
                f"{kind} {name} {{ {field} }}",
                f"{kind} {name} {{ {field} {alias} {{ id }} }}",
                f"{kind} {name} {{ ...{field} }} fragment {field} on {alias} {{ id }}",
                f"{name} {{",
            ]
        )

    async def send(count: int) -> Scrape:
        for _ in range(count):
            sent = document()
            await gateway.answer(sent, some.choice([ADMIN, None, sent[:20].strip()]))
        return Scrape.here()

    before = await send(200)
    after = await send(400)

    assert after.more(before, REQUESTS) == 400
    assert series_of_requests(after) == series_of_requests(before)


def series_of_requests(page: Scrape) -> set[object]:
    return {(name, labels) for name, labels in page.values if name.startswith(("images_request", "images_errors"))}


# ------------------------------------------------------------ what is open, and what passes through


@pytest.mark.parametrize("transport", ["websocket", "sse", "multipart"])
async def test_an_open_subscription_is_counted_until_it_ends(start_gateway: StartGateway, transport: str) -> None:
    document = "subscription ($id: ID!) { image(id: $id) { id } }"
    labels = {"operation": "image", "type": "subscription"}
    async with start_gateway() as gateway:
        image = await gateway.create()
        before = Scrape.here()
        async with served(gateway.app, gateway.endpoint) as address:
            wanted = Wanted(address, document, {"id": image["id"]}, gateway.token(ADMIN))
            async with watching(transport, wanted) as watcher:
                await watcher.next()
                assert await grown(before, "images_subscriptions_open", 1)
                assert await grown(before, REQUESTS, 0)
            await until(lambda: grown(before, "images_subscriptions_open", 0))

    after = Scrape.here()
    assert after.more(before, REQUESTS, **labels) == 1
    assert after.value("images_request_seconds_count", **labels) == 0


async def grown(before: Scrape, name: str, by: float) -> bool:
    return Scrape.here().more(before, name) == by


async def test_bytes_are_counted_as_they_come_and_go(gateway: Gateway) -> None:
    before = Scrape.here()

    image = await gateway.active(b"\1" * MIB)
    download = (await gateway.ask("query ($id: ID!) { image(by: {id: $id}) { download { url } } }", id=image["id"]))[
        "image"
    ]["download"]["url"]
    await gateway.client.get(download, headers={"Range": "bytes=0-1023"})

    after = Scrape.here()
    assert after.more(before, "images_client_bytes_total", direction="in", path="gateway") == MIB
    assert after.more(before, "images_client_bytes_total", direction="out", path="gateway") == 1024


async def test_bytes_that_a_client_did_not_take_are_not_counted() -> None:
    before = Scrape.here()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"12345"
        yield b"678"

    async with aclosing(metrics.sent(chunks())) as counted:  # type: ignore[type-var]
        assert await anext(counted) == b"12345"
        assert await anext(counted) == b"678"

    assert Scrape.here().more(before, "images_client_bytes_total", direction="out") == 5


async def test_what_a_quota_refuses_is_counted_by_the_limit(gateway: Gateway, project: str) -> None:
    before = Scrape.here()
    await gateway.change(Project, project, custom_images_limit=0)
    await gateway.mutate("createImage", gateway.creation(projectId=project))
    await gateway.change(Project, project, custom_images_limit=1, image_storage_limit=0)
    await gateway.mutate("createImage", gateway.creation(projectId=project))
    async with gateway.database.read() as session:
        row = await session.get_one(Project, project)
        with pytest.raises(QuotaExceeded):
            await quotas.require_room(session, row, gateway.settings, 1, ())

    after = Scrape.here()
    assert after.more(before, "images_quota_refusals_total", limit="images") == 1
    assert after.more(before, "images_quota_refusals_total", limit="bytes") == 2
    assert after.more(before, "images_errors_total", where="user_errors", code="QUOTA_EXCEEDED") == 2


async def test_an_image_that_failed_is_counted_by_its_code(gateway: Gateway) -> None:
    before = Scrape.here()

    await gateway.failed()

    assert Scrape.here().more(before, "images_failed_total", code="CORRUPT_IMAGE") == 1


async def test_an_image_whose_failure_is_rolled_back_is_not_counted(gateway: Gateway) -> None:
    image = await gateway.uploaded()
    before = Scrape.here()

    async def fail_and_lose_the_connection() -> None:
        async with gateway.database.transaction() as tx:
            row = await tx.session.get_one(Image, image["id"])
            await images.fail(tx, row, ImageFailed(FailureCode.CORRUPT_IMAGE, "It is broken.", "Fix it."))
            raise DatabaseUnavailable("the connection was lost")

    with pytest.raises(DatabaseUnavailable):
        await fail_and_lose_the_connection()

    assert Scrape.here().more(before, "images_failed_total", code="CORRUPT_IMAGE") == 0


# ------------------------------------------------------------ the feed


async def test_a_feed_that_can_be_read_has_no_lag_and_was_read_just_now(gateway: Gateway) -> None:
    before = await scrape(gateway)

    async def read_again() -> bool:
        return (await scrape(gateway)).more(before, "images_feed_read_timestamp_seconds") > 0

    await gateway.create()
    await until(read_again)

    async def delivered() -> bool:
        return (await scrape(gateway)).value("images_feed_lag_events") == 0

    await until(delivered)


async def test_a_feed_that_can_not_deliver_lags_by_what_is_waiting(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = Revocations.refresh, False

    async def refresh(revocations: Revocations) -> None:
        if broken:
            raise DatabaseUnavailable("tried out")
        await whole(revocations)

    monkeypatch.setattr(Revocations, "refresh", refresh)
    async with start_gateway() as gateway:

        async def lags(at_least: int, at_most: int) -> bool:
            return at_least <= (await scrape(gateway)).value("images_feed_lag_events") <= at_most

        broken = True
        await gateway.create()
        await gateway.create()
        await until(lambda: lags(2, 10))

        broken = False
        await until(lambda: lags(0, 0))


# ------------------------------------------------------------ what the database knows


async def test_the_schedule_puts_the_census_on_the_page(gateway: Gateway, clean_catalogue: None) -> None:
    await gateway.create()
    schedule = Schedule(gateway.catalogue, gateway.queue)

    await schedule.take_census()

    shown = await scrape(gateway)
    assert shown.value("images_uploads_open") == (await census.take(gateway.database)).open_uploads
    assert shown.value("images_catalogue_read_timestamp_seconds") > 0


async def test_while_the_database_is_away_the_newest_numbers_are_shown(gateway: Gateway, clean_catalogue: None) -> None:
    away = Database("postgresql+asyncpg://images@127.0.0.1:1/none")
    schedule = Schedule(replace(gateway.catalogue, database=away), gateway.queue)
    metrics.CATALOGUE.read(CatalogueState({("CONVERT", "WAITING"): 7}, {"CONVERT": 3.0}, 1))

    await schedule.take_census()

    assert (await scrape(gateway)).value("images_jobs", kind="CONVERT", state="WAITING") == 7
    await away.close()


async def test_numbers_that_are_old_are_not_shown(gateway: Gateway, clean_catalogue: None) -> None:
    metrics.CATALOGUE.read(CatalogueState({("CONVERT", "WAITING"): 7}, {"CONVERT": 3.0}, 1, read_at=1_000.0))

    shown = await scrape(gateway)

    assert {"images_jobs", "images_job_oldest_waiting_seconds", "images_uploads_open"} & shown.names == set()
    assert shown.value("images_catalogue_read_timestamp_seconds") == 1_000


@pytest.fixture
def clean_catalogue() -> Iterator[None]:
    """Forget what the schedule has read, which the process keeps."""
    yield
    metrics.CATALOGUE.read(CatalogueState({}, {}, 0))


# ------------------------------------------------------------ the database's connections


async def test_a_connection_counts_as_in_use_while_it_is(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        before = Scrape.here()
        async with gateway.database.transaction() as tx:
            await tx.session.execute(text("SELECT 1"))
            assert Scrape.here().more(before, "images_database_connections_in_use", pool="write") == 1
        assert Scrape.here().more(before, "images_database_connections_in_use", pool="write") == 0


async def test_the_pools_of_a_process_are_added_up_for_as_long_as_they_are_open(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        gc.collect()
        before = Scrape.here()
        another = Database(gateway.settings.database_address)
        grown = Scrape.here().more(before, "images_database_connections_limit")
        await another.close()
        del another
        gc.collect()

        assert grown == 8 + 1
        assert Scrape.here().more(before, "images_database_connections_limit") == 0


# ------------------------------------------------------------ what never is on the page


async def test_no_label_names_a_tenant_or_anything_of_theirs(gateway: Gateway) -> None:
    image = await gateway.active(upload={"fileName": "zwiebel.raw"}, name="zwiebel")
    await gateway.ask("query Zwiebel($id: ID!) { image(by: {id: $id}) { name } }", id=image["id"])

    values = (await scrape(gateway)).label_values

    assert not values & {gateway.alpha, gateway.beta, "alpha", "beta", "demo", ADMIN, MEMBER, STRANGER, OPERATOR}
    assert [value for value in values if "zwiebel" in value.lower() or image["id"] in value or "/" in value] == []
