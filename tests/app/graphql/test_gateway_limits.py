"""Limits of the whole gateway on its callers, as its settings state them."""

import pytest
from graphql import get_introspection_query

from tests.app.conftest import StartGateway
from tests.support.gateway import CREATE, MEMBER, Gateway

pytestmark = pytest.mark.anyio

NOBODY_IN_PARTICULAR = "nina"


async def test_33_000_labels_are_refused_before_they_are_coerced(gateway: Gateway) -> None:
    labels = [{"key": "", "value": ""}] * 33_000

    for count, subject in ((33_000, NOBODY_IN_PARTICULAR), (400, NOBODY_IN_PARTICULAR), (400, MEMBER)):
        refused = await gateway.refused(CREATE, subject, input=gateway.creation(labels=labels[:count]))

        assert refused["code"] == "TOO_MANY_ITEMS"
        assert refused["hint"]


async def test_an_anonymous_client_has_the_requests_of_the_setting(start_gateway: StartGateway) -> None:
    async with start_gateway(anonymous_requests_per_minute=2) as gateway:
        for _ in range(2):
            answer = await gateway.answer(get_introspection_query(), None)
            assert answer["data"]["__schema"]["queryType"] == {"name": "Query", "kind": "OBJECT"}

        assert (await gateway.refused(get_introspection_query(), None))["code"] == "RATE_LIMITED"
        assert "data" in await gateway.answer("{ __typename }")


async def test_limits_on_what_is_open_follow_the_settings(start_gateway: StartGateway) -> None:
    given = {"subscriptions_per_subject": 1, "sockets_per_subject": 2, "body_seconds": 3.5}

    async with start_gateway(**given) as gateway:
        admission = gateway.endpoint.admission

        assert admission.body_seconds == 3.5
        with (
            admission.stream("ada", 1),
            pytest.raises(Exception, match="1 subscription open"),
            admission.stream("ada", 1),
        ):
            """Refused."""
