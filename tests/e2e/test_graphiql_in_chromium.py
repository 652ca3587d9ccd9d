"""GraphiQL at /graphql, as people use it: in a browser, against a gateway that runs."""

from collections.abc import Iterator
from urllib.parse import urlencode, urlsplit

import pytest

from tests.e2e.browser import Tab, chromium
from tests.e2e.gateway import Gateway

pytestmark = pytest.mark.needs_program("chromium")

RUN = "button[aria-label^='Execute query']"
# The editors of operation, variables and headers, and the one that shows the result.
READY = "document.querySelectorAll('.view-lines').length === 4"
RESULT = "document.querySelector('.result-window').innerText.replace(/\\s+/g, ' ')"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as tab:
        yield tab


def run(tab: Tab, gateway: Gateway, operation: str | None = None) -> None:
    """Opens GraphiQL and runs the operation, or the first of its examples."""
    asked = f"?{urlencode({'query': operation})}" if operation else ""
    tab.open(f"{gateway.graphql}{asked}")
    tab.wait_for(READY)
    tab.click(RUN)


def shown_by(tab: Tab) -> str:
    """The result in GraphiQL, as soon as there is one."""
    shown: str = tab.wait_for(f"/data|errors/.test({RESULT}) && {RESULT}")
    return shown


def watch_from_now(gateway: Gateway) -> str:
    cursor = gateway.post("{ eventCursor }")["eventCursor"]
    where = f'projectId: "{gateway.projects["alpha"]}", after: "{cursor}"'
    return f"subscription {{ imageEvents({where}) {{ __typename ... on ImageCreated {{ image {{ name }} }} }} }}"


def create_image(gateway: Gateway, name: str) -> None:
    source = {"upload": {"fileName": "disk.raw", "size": 1 << 20}}
    gateway.post(
        "mutation ($input: CreateImageInput!) { createImage(input: $input) { image { id } } }",
        input={"projectId": gateway.projects["alpha"], "name": name, "source": source},
    )


def test_the_first_example_runs_with_the_token_that_was_filled_in(tab: Tab, running_gateway: Gateway) -> None:
    run(tab, running_gateway)

    expected = f'"id": "{running_gateway.projects["alpha"]}", "name": "alpha", "viewerRole": "ADMIN"'
    assert expected in shown_by(tab)
    assert tab.problems == []


def test_a_subscription_shows_what_happens_while_it_runs(tab: Tab, running_gateway: Gateway) -> None:
    run(tab, running_gateway, watch_from_now(running_gateway))
    create_image(running_gateway, "seen in a browser")

    assert '"__typename": "ImageCreated", "image": { "name": "seen in a browser" }' in shown_by(tab)
    assert tab.problems == []


def test_no_request_leaves_the_host(tab: Tab, running_gateway: Gateway) -> None:
    run(tab, running_gateway, watch_from_now(running_gateway))
    create_image(running_gateway, "seen here alone")
    shown_by(tab)
    for worker in ("graphql", "json", "editor"):
        tab.wait_for_worker(f"{running_gateway.url}/graphiql/{worker}.worker.js")

    asked = {urlsplit(url)[:2] for url in tab.requests if not url.startswith("data:")}
    here = urlsplit(running_gateway.url).netloc
    assert asked == {("http", here), ("ws", here)}
