"""GraphiQL at /graphql, as people use it: in a browser, against a gateway that runs."""

import asyncio
import json
from collections.abc import Iterator
from urllib.parse import urlencode, urlsplit

import pytest

from app.catalog.people.revocations import revoke_tokens
from app.catalog.people.sign_in import new_code
from app.database.sessions import Database
from tests.e2e.browser import Tab, chromium
from tests.e2e.client import eventually
from tests.e2e.gateway import Gateway
from tests.servers.relay import relay

pytestmark = pytest.mark.needs_program("chromium")

RUN = "button[aria-label^='Execute query']"
# The editors of operation, variables and headers, and the one that shows the result.
READY = "document.querySelectorAll('.view-lines').length === 4"
FORM = "document.querySelector('.sign-in form') !== null"
TROUBLE = "document.querySelector('.trouble').innerText"
RESULT = "document.querySelector('.result-window').innerText.replace(/\\s+/g, ' ')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab) -> Tab:
    """A new tab that is not signed in."""
    browser.open_another()
    return browser


def sign_in_address(gateway: Gateway, subject: str = "demo-admin") -> str:
    """What `images signin` prints, without the seconds that it takes to start."""

    async def code() -> str:
        database = Database(f"sqlite+aiosqlite:///{gateway.data / 'images.db'}")
        try:
            return await new_code(database, subject)
        finally:
            await database.close()

    return f"{gateway.graphql}#code={asyncio.run(code())}"


def revoke(gateway: Gateway, subject: str) -> None:
    """What `images token --revoke-all` does, likewise."""

    async def revoke() -> None:
        database = Database(f"sqlite+aiosqlite:///{gateway.data / 'images.db'}")
        try:
            await revoke_tokens(database, subject)
        finally:
            await database.close()

    asyncio.run(revoke())


def run(tab: Tab, address: str, operation: str | None = None) -> None:
    """Opens GraphiQL by a sign-in address, and runs the operation, or the first of its examples."""
    page, _, code = address.partition("#")
    asked = f"?{urlencode({'query': operation})}" if operation else ""
    tab.open(f"{page}{asked}#{code}")
    execute(tab)


def execute(tab: Tab) -> None:
    tab.wait_for(READY)
    tab.click(RUN)


def shown_by(tab: Tab) -> str:
    """The result in GraphiQL, as soon as there is one."""
    shown: str = tab.wait_for(f"/data|errors/.test({RESULT}) && {RESULT}")
    return shown


def trouble_in(tab: Tab) -> str:
    """What the form says that is wrong, as soon as it does."""
    shown: str = tab.wait_for(f"{FORM} && !document.querySelector('.trouble').hidden && {TROUBLE}")
    return shown


def paste(tab: Tab, token: str) -> None:
    tab.wait_for(FORM)
    tab.value(f"document.querySelector('#token').value = {json.dumps(token)}")
    tab.click("button[type=submit]")


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


def test_an_address_with_a_code_signs_in_with_one_click(tab: Tab, running_gateway: Gateway) -> None:
    address = sign_in_address(running_gateway)

    run(tab, address)

    expected = f'"id": "{running_gateway.projects["alpha"]}", "name": "alpha", "viewerRole": "ADMIN"'
    assert expected in shown_by(tab)
    assert tab.problems == []
    code = address.partition("#code=")[2]
    assert tab.value("location.href") == running_gateway.graphql
    assert tab.value("performance.getEntriesByType('navigation').length") == 1
    assert not any(code in url for url in tab.requests)
    assert code not in running_gateway.log.read_text()
    assert tab.value(f"JSON.stringify([localStorage, sessionStorage, history.state]).includes('{code}')") is False
    assert tab.value("JSON.stringify(localStorage).includes('eyJ')") is False


def test_a_tab_stays_signed_in_when_it_is_loaded_again(tab: Tab, running_gateway: Gateway) -> None:
    run(tab, sign_in_address(running_gateway))
    shown_by(tab)

    tab.reload()
    execute(tab)

    assert '"subject": "demo-admin"' in shown_by(tab)


def test_a_second_tab_asks_for_a_token(tab: Tab, running_gateway: Gateway) -> None:
    address = sign_in_address(running_gateway)
    run(tab, address)
    shown_by(tab)

    tab.open_another()
    tab.open(running_gateway.graphql)
    tab.wait_for(FORM)
    assert tab.value("document.querySelector('.trouble').hidden") is True

    # Nor does the address work again that signed the first one in.
    tab.open("about:blank")
    tab.open(address)
    assert trouble_in(tab) == (
        "This sign-in URL was already used, was replaced, or has expired. Run `images signin` to get a new one."
    )
    assert tab.value("location.href") == running_gateway.graphql


def test_a_code_that_is_opened_where_the_page_is_open_already_signs_in(tab: Tab, running_gateway: Gateway) -> None:
    tab.open(running_gateway.graphql)
    tab.wait_for(FORM)

    run(tab, sign_in_address(running_gateway, "guest"))

    assert '"subject": "guest"' in shown_by(tab)


def test_a_code_signs_in_through_a_plain_proxy(tab: Tab, running_gateway: Gateway) -> None:
    address = sign_in_address(running_gateway)
    with relay(running_gateway.port, lambda _request: None) as port:
        run(tab, address.replace(str(running_gateway.port), str(port), 1))

        assert '"subject": "demo-admin"' in shown_by(tab)
        assert tab.problems == []


def test_a_pasted_token_signs_in_until_its_owner_signs_out(tab: Tab, running_gateway: Gateway) -> None:
    tab.open(running_gateway.graphql)
    paste(tab, "not a token")
    assert "spaces" in trouble_in(tab)
    paste(tab, "a.b.c")
    tab.wait_for(f"{TROUBLE}.includes('malformed')")

    paste(tab, f"  Bearer {running_gateway.token} ")
    execute(tab)

    assert '"subject": "demo-admin"' in shown_by(tab)
    tab.click(".sign-out")

    tab.wait_for(FORM)
    assert tab.value("sessionStorage.length") == 0


def test_without_a_token_the_schema_can_be_read_and_nothing_else(tab: Tab, running_gateway: Gateway) -> None:
    tab.open(running_gateway.graphql)
    tab.click(".plain")

    execute(tab)

    assert '"code": "UNAUTHENTICATED"' in shown_by(tab)


def test_a_revoked_token_leads_back_to_the_form(tab: Tab, running_gateway: Gateway) -> None:
    run(tab, sign_in_address(running_gateway, "to be revoked"))
    shown_by(tab)
    revoke(running_gateway, "to be revoked")

    def shown_when_reloaded() -> str | None:
        tab.reload()
        tab.wait_for(f"{FORM} || {READY}")
        return trouble_in(tab) if tab.value(FORM) else None

    assert eventually(shown_when_reloaded) == "The token was revoked: get a new one."


def test_a_subscription_shows_what_happens_while_it_runs(tab: Tab, running_gateway: Gateway) -> None:
    run(tab, sign_in_address(running_gateway), watch_from_now(running_gateway))
    create_image(running_gateway, "seen in a browser")

    assert '"__typename": "ImageCreated", "image": { "name": "seen in a browser" }' in shown_by(tab)
    assert tab.problems == []


def test_no_request_leaves_the_host(tab: Tab, running_gateway: Gateway) -> None:
    run(tab, sign_in_address(running_gateway), watch_from_now(running_gateway))
    create_image(running_gateway, "seen here alone")
    shown_by(tab)
    for worker in ("graphql", "json", "editor"):
        tab.wait_for_worker(f"{running_gateway.url}/graphiql/{worker}.worker.js")

    asked = {urlsplit(url)[:2] for url in tab.requests if not url.startswith("data:")}
    here = urlsplit(running_gateway.url).netloc
    assert asked == {("http", here), ("ws", here)}
