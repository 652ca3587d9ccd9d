"""The GraphiQL page and its assets, as a browser and others get them."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from graphql import OperationDefinitionNode, build_schema, parse, validate
from graphql.execution.values import get_variable_values
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.web.graphiql import SOURCES, graphiql_assets, graphiql_page

HOME = "http://127.0.0.1:8000"
EXAMPLES = SOURCES / "examples"
TABS = json.loads((EXAMPLES / "tabs.json").read_text())
SCHEMA = Path(__file__).parents[3] / "schema.graphql"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Sec-Fetch-Dest": "document"}


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / "page.js").write_text("// the page")
    return folder


class Visitor:
    """Somebody at address `peer`."""

    def __init__(self, assets: Path, *, peer: str = "127.0.0.1") -> None:
        async def graphql(_request: Request) -> Response:
            return graphiql_page(embedded=True, assets=assets)

        routes = [Route("/graphql", graphql), graphiql_assets(assets)]
        self._gateway = httpx.ASGITransport(Starlette(routes=routes), client=(peer, 50_000))

    def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> httpx.Response:
        async def answer() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._gateway, base_url=HOME) as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(answer())


def configuration(page: str) -> dict[str, bool]:
    element = re.search(r'<script id="configuration" type="application/json">(.*?)</script>', page)
    assert element is not None
    found: dict[str, bool] = json.loads(element[1])
    return found


def directives(policy: str) -> dict[str, list[str]]:
    return {words[0]: words[1:] for words in (part.split() for part in policy.split(";"))}


@pytest.mark.parametrize("peer", ["127.0.0.1", "192.0.2.7"])
@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "images.example.org", "[::1", ""])
def test_everybody_gets_the_same_page(assets: Path, peer: str, host: str) -> None:
    known = Visitor(assets).get("/graphql", headers=BROWSER)

    response = Visitor(assets, peer=peer).get("/graphql", headers=BROWSER | {"Host": host})

    assert response.status_code == 200
    assert response.text == known.text
    assert configuration(response.text) == {"embedded": True}


def test_the_page_may_load_and_ask_nothing_but_the_gateway(assets: Path) -> None:
    headers = Visitor(assets).get("/graphql", headers=BROWSER).headers
    policy = directives(headers["Content-Security-Policy"])

    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == policy["worker-src"] == policy["connect-src"] == ["'self'"]
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
    allowed = {source for sources in policy.values() for source in sources}
    assert allowed <= {"'none'", "'self'", "data:", "'unsafe-inline'"}
    assert headers["X-Frame-Options"] == "DENY"


def test_a_worker_is_held_by_the_policy_of_the_page(assets: Path) -> None:
    client = Visitor(assets)

    page = client.get("/graphql", headers=BROWSER)
    script = client.get("/graphiql/page.js")

    assert script.headers["Content-Security-Policy"] == page.headers["Content-Security-Policy"]


def test_the_page_is_kept_by_no_cache(assets: Path) -> None:
    assert Visitor(assets).get("/graphql", headers=BROWSER).headers["Cache-Control"] == "no-store"


def test_the_page_holds_no_script_and_no_style_of_its_own_and_names_no_other_host() -> None:
    page = (SOURCES / "page.html").read_text()

    assert not re.search(r"<style|\sstyle=|\son\w+=|//\w", page)
    assert re.findall(r"<script[^>]*>(.*?)</script>", page) == ["$configuration", ""]


@pytest.mark.parametrize("tab", TABS, ids=lambda tab: str(tab["document"]))
def test_an_example_and_its_variables_are_what_the_schema_allows(tab: dict[str, Any]) -> None:
    schema = build_schema(SCHEMA.read_text())
    document = parse((EXAMPLES / f"{tab['document']}.graphql").read_text())
    [operation] = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]

    assert validate(schema, document) == []
    checked = get_variable_values(schema, operation.variable_definitions or (), tab.get("variables", {}))
    assert not isinstance(checked, list), checked


def test_every_example_has_a_tab() -> None:
    source = (SOURCES / "explorer.js").read_text()
    names = sorted(path.stem for path in EXAMPLES.glob("*.graphql"))

    assert sorted(tab["document"] for tab in TABS) == names
    assert [name for name in names if f'"{name}": ' not in source or f"/{name}.graphql" not in source] == []


def test_without_its_assets_the_page_says_what_to_do(tmp_path: Path) -> None:
    client = Visitor(tmp_path / "never built")

    response = client.get("/graphql", headers=BROWSER)

    assert response.status_code == 503
    assert "make setup" in response.text
    assert client.get("/graphiql/page.js").status_code == 404


def test_an_asset_that_has_not_changed_costs_no_second_transfer(assets: Path) -> None:
    client = Visitor(assets)

    first = client.get("/graphiql/page.js")
    again = client.get("/graphiql/page.js", headers={"If-None-Match": first.headers["ETag"]})

    assert (first.status_code, first.text) == (200, "// the page")
    assert first.headers["Cache-Control"] == "no-cache"
    assert (again.status_code, again.text) == (304, "")


@pytest.mark.parametrize("path", ["../secret", "..%2fsecret", "%2e%2e/secret", "/etc/passwd"])
def test_no_path_leads_out_of_the_assets(assets: Path, path: str) -> None:
    (assets.parent / "secret").write_text("the secret of the data folder")

    response = Visitor(assets).get(f"/graphiql/{path}")

    assert response.status_code in {404, 405}
    assert "secret of" not in response.text


def test_head_of_the_page_answers_without_a_body(assets: Path) -> None:
    response = Visitor(assets).get("/graphql", BROWSER, method="HEAD")

    assert (response.status_code, response.content) == (200, b"")
