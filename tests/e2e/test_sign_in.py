"""No page holds a token: who signs a browser in has to bring a one-time code, over real sockets."""

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.gateway import Gateway
from tests.servers.relay import relay

NAVIGATION = {
    "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "none",
}
# The form of a JSON Web Token (RFC 7519), whoever it is for.
TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")


@pytest.fixture
def plain_proxy(running_gateway: Gateway) -> Iterator[str]:
    """The gateway as nginx's `proxy_pass` alone gives it to others: no header says that there is a proxy."""
    with relay(running_gateway.port, lambda _request: None) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(params=["directly", "through a plain proxy"])
def address(request: pytest.FixtureRequest, running_gateway: Gateway) -> str:
    if request.param == "directly":
        return running_gateway.url
    proxy: str = request.getfixturevalue("plain_proxy")
    return proxy


@pytest.mark.parametrize("headers", [NAVIGATION, {"Accept": "text/html"}], ids=["browser", "raw request"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "images.example.org"])
def test_no_page_that_is_just_requested_holds_a_token(address: str, headers: dict[str, str], host: str) -> None:
    for path in ("/", "/graphql", "/graphql?query={viewer{subject}}", "/graphiql/page.js", "/graphiql/signin"):
        page = httpx.get(address + path, headers={**headers, "Host": host}, follow_redirects=True)

        assert not TOKEN.search(page.text), path
        assert "demo-admin" not in page.text
