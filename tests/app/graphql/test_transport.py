"""GraphQL over HTTP: requests, media types and refusals. Streams and sockets have their own tests."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Message
from structlog.testing import capture_logs

from app.graphql.limits.query_limits import QueryLimits
from tests.support.toy_schema import SECRET, toy_app

GOOD = {"Authorization": "Bearer good"}
GRAPHQL_RESPONSE = {"Accept": "application/graphql-response+json"}


def ask(method: str = "POST", *, app: Any = None, **request: Any) -> httpx.Response:
    """Sends one request to the endpoint, with a valid token unless `headers` contain another."""
    request["headers"] = {**GOOD, **request.get("headers", {})}

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app or toy_app())
        async with httpx.AsyncClient(transport=transport, base_url="http://library") as client:
            return await client.request(method, "/graphql", **request)

    return asyncio.run(send())


def query(document: str, **request: Any) -> httpx.Response:
    return ask(json={"query": document}, **request)


def code(response: httpx.Response) -> str:
    code: str = response.json()["errors"][0]["extensions"]["code"]
    return code


def test_a_query_is_answered_as_json() -> None:
    response = query("{ hello }")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert response.json()["data"] == {"hello": "world"}


def test_the_newer_media_type_is_served_when_it_is_accepted() -> None:
    response = query("{ hello }", headers=GRAPHQL_RESPONSE)
    assert response.headers["content-type"] == "application/graphql-response+json; charset=utf-8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/graphql-response+json, application/json;q=0.9", "application/graphql-response+json"),
        ("application/graphql-response+json;q=0.5, application/json", "application/json"),
        ("application/json;q=0, */*", "application/graphql-response+json"),
        (
            "application/graphql-response+json, application/json, text/event-stream",
            "application/graphql-response+json",
        ),
        ("text/event-stream, application/json;q=0.1", "text/event-stream"),
        ("multipart/mixed, application/json;q=0.1", "application/json"),
        ("multipart/mixed;boundary=graphql;subscriptionSpec=1.0, application/json", "multipart/mixed"),
        ("application/json;q=much, */*", "application/json"),
    ],
)
def test_the_client_chooses_the_media_type(accept: str, expected: str) -> None:
    response = query("{ hello }", headers={"Accept": accept})
    assert response.headers["content-type"].split(";")[0] == expected


@pytest.mark.parametrize("accept", ["text/plain", "application/json;q=0", "text/html", "multipart/mixed"])
def test_a_client_that_accepts_nothing_of_ours_gets_406(accept: str) -> None:
    response = query("{ hello }", headers={"Accept": accept})
    assert (response.status_code, code(response)) == (406, "NOT_ACCEPTABLE")


@pytest.mark.parametrize("document", ["{ hello", "{ nope }", "query ($id: ID!) { book(id: $id) { id } }"])
def test_what_is_refused_before_it_runs_has_no_data(document: str) -> None:
    for headers, status in ((GRAPHQL_RESPONSE, 400), ({"Accept": "application/json"}, 200)):
        response = query(document, headers=headers)
        assert response.status_code == status
        assert "data" not in response.json()


def test_a_field_that_fails_leaves_the_status_alone() -> None:
    response = query("{ hello mistake }", headers=GRAPHQL_RESPONSE)
    assert response.status_code == 200
    assert response.json()["data"] == {"hello": "world", "mistake": None}


def test_a_query_can_come_by_get_with_variables() -> None:
    parameters = {"query": "query ($n: Int) { times(number: $n) }", "variables": '{"n": 3}'}
    assert ask("GET", params=parameters).json()["data"] == {"times": 3}


def test_a_mutation_by_get_is_405_and_not_run() -> None:
    response = ask("GET", params={"query": 'mutation { addBook(title: "x") { id } }'})
    assert (response.status_code, code(response)) == (405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "PATCH"])
def test_other_methods_are_405(method: str) -> None:
    response = ask(method, json={"query": "{ hello }"})
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, POST"


def test_the_error_of_a_subscription_without_a_stream_names_the_transports() -> None:
    response = query("subscription { count(to: 1) }")
    assert response.status_code == 406
    assert "text/event-stream" in response.json()["errors"][0]["message"]


def test_files_are_refused_with_a_pointer_to_the_upload() -> None:
    response = ask(files={"operations": (None, '{"query": "{ hello }"}')})
    assert (response.status_code, code(response)) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert "createImage" in response.json()["errors"][0]["extensions"]["hint"]


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "",
        "application/json; charset=latin-1",
    ],
)
def test_content_that_a_foreign_page_could_send_unasked_is_refused(content_type: str) -> None:
    response = ask(content=b'{"query": "{ hello }"}', headers={"Content-Type": content_type})
    assert (response.status_code, code(response)) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"7", b'"{ hello }"', b"\xff\xfe", b"[" * 9_000, b"{}", b'{"query": 1}',
        b'{"query": ""}',
        b'{"query": "{hello}", "variables": []}', b'{"query": "{hello}", "variables": "{}"}',
        b'{"query": "{hello}", "operationName": 1}', b'{"query": "{hello}", "extensions": 7}',
        b'{"query": "{hello}", "variables": {"n": ' + b"1" * 5000 + b"}}",
    ],
)  # fmt: skip
def test_a_body_that_is_no_request_is_400(body: bytes) -> None:
    response = ask(content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, code(response)) == (400, "BAD_REQUEST")


def test_batches_are_off() -> None:
    response = ask(json=[{"query": "{ hello }"}])
    assert (response.status_code, code(response)) == (400, "BATCHING_OFF")


def test_a_body_beyond_the_limit_is_413() -> None:
    app = toy_app(limits=QueryLimits(body_bytes=100))
    response = ask(json={"query": "{ hello }" + " " * 100}, app=app)
    assert (response.status_code, code(response)) == (413, "BODY_TOO_LARGE")


def test_a_client_that_goes_while_it_sends_is_no_failure_of_ours() -> None:
    sent: list[Message] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b""}
    scope["headers"] = [(b"content-type", b"application/json")]

    async def receive() -> Message:
        return sent.pop(0)

    async def send(_message: Message) -> None:
        """Goes nowhere."""

    with capture_logs() as logs:
        asyncio.run(toy_app()(scope, receive, send))
    assert logs == []


def test_the_limits_of_the_contract_are_the_default() -> None:
    fits, too_long = "{ hello }".ljust(64 * 1024), "{ hello }".ljust(64 * 1024 + 1)
    assert query(fits).json()["data"] == {"hello": "world"}
    assert (query(too_long).status_code, code(query(too_long))) == (413, "DOCUMENT_TOO_LARGE")
    assert code(ask(content=b" " * (1024 * 1024 + 1), headers={"Content-Type": "application/json"})) == "BODY_TOO_LARGE"


def test_a_document_is_measured_in_bytes() -> None:
    app = toy_app(limits=QueryLimits(document_bytes=20))
    assert code(query("{ hello } #" + "ü" * 9, app=app)) == "DOCUMENT_TOO_LARGE"


def test_half_a_surrogate_pair_is_a_mistake_in_the_document() -> None:
    response = ask(content=b'{"query": "{ hello \\ud800 }"}', headers={"Content-Type": "application/json"})
    assert code(response) == "GRAPHQL_PARSE_FAILED"


@pytest.mark.parametrize("authorization", ["Bearer bad", "Bearer ", "Basic QWRhOg==", "good"])
def test_a_token_that_does_not_hold_is_401(authorization: str) -> None:
    response = query("{ __typename }", headers={"Authorization": authorization})
    assert (response.status_code, code(response)) == (401, "UNAUTHENTICATED")
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_failure_while_authenticating_is_500_without_its_text() -> None:
    response = query("{ hello }", headers={"Authorization": "Bearer broken"})
    assert (response.status_code, code(response)) == (500, "INTERNAL")
    assert SECRET not in response.text


def test_one_of_several_operations_has_to_be_named() -> None:
    document = "query A { hello } query B { times }"
    assert code(query(document)) == "OPERATION_NAME_REQUIRED"
    named = ask(json={"query": document, "operationName": "B"})
    assert named.json()["data"] == {"times": 1}
    unknown = ask(json={"query": document, "operationName": "C"})
    assert code(unknown) == "OPERATION_NOT_FOUND"
    assert code(ask(json={"query": "fragment F on Query { hello }"})) == "OPERATION_NOT_FOUND"


def test_a_browser_gets_the_page_and_scripts_get_json() -> None:
    async def page(_request: Request) -> Response:
        return HTMLResponse("<title>explorer</title>")

    app = toy_app(explorer=page)
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    assert ask("GET", headers={**browser, "Authorization": "Bearer bad"}, app=app).text == "<title>explorer</title>"
    assert ask("GET", params={"query": "{ hello }"}, app=app).json()["data"] == {"hello": "world"}
    assert code(ask("POST", headers=browser, json={"query": "{ nope }"}, app=app)) == "GRAPHQL_VALIDATION_FAILED"


def test_the_correlation_id_of_the_caller_comes_back() -> None:
    response = query("{ bug }", headers={"X-Correlation-Id": "trace-7"})
    assert response.headers["x-correlation-id"] == "trace-7"
    assert response.json()["errors"][0]["extensions"]["correlationId"] == "trace-7"


@pytest.mark.parametrize("sent", ["a b", "x" * 129, '"><script>', "\u00e4"])
def test_a_correlation_id_that_could_do_harm_is_replaced(sent: str) -> None:
    response = query("{ hello }", headers={"X-Correlation-Id": sent.encode("latin-1")})
    assert response.headers["x-correlation-id"] not in ("", sent)


def test_every_refusal_names_a_correlation_id() -> None:
    for response in (ask(content=b"{"), query("{ hello", headers={"Accept": "text/plain"}), ask("PUT")):
        error = response.json()["errors"][0]
        assert error["extensions"]["correlationId"] == response.headers["x-correlation-id"]
        assert json.dumps(error).isascii()
