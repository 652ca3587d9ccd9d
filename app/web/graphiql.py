"""GraphiQL at /graphql for browsers, and its assets under /graphiql/, all served by the gateway itself.

The assets are built by `make setup` from the packages that graphiql/package-lock.json pins. The page asks
nobody but the gateway for anything: its Content-Security-Policy says so to the browser.
"""

import ipaddress
import json
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

SOURCES = Path(__file__).with_name("graphiql")
ASSETS = SOURCES / "assets"

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "worker-src 'self'",
        "connect-src 'self'",
        # The editor of GraphiQL writes style elements and attributes while it runs.
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)

PAGE_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The page may hold a token.
    "Cache-Control": "no-store",
    "Vary": "Accept",
}

NOT_BUILT = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>GraphiQL is not built</title></head>
<body>
<h1>GraphiQL is not built</h1>
<p>The API works, but the files of this page are missing.
Run <code>make setup</code>, then load the page again.</p>
</body>
</html>
"""


def graphiql_page(
    request: Request, token: str | None = None, project_id: str | None = None, assets: Path = ASSETS
) -> Response:
    """The page for a browser; 503 with the way out when `assets` have not been built.

    `token` is the bearer token to fill in, for the embedded mode, and `project_id` the project that the
    examples name. Both are left out unless a browser on this very machine asks, see `from_this_machine`.
    """
    if not (assets / "page.js").is_file():
        return HTMLResponse(NOT_BUILT, status_code=503, headers=PAGE_HEADERS)
    known = {"token": token, "projectId": project_id} if from_this_machine(request) else {}
    return HTMLResponse(_page(known), headers=PAGE_HEADERS)


def graphiql_assets(assets: Path = ASSETS) -> Mount:
    """The route of scripts, workers, styles and fonts of the page."""
    return Mount("/graphiql", _Assets(directory=assets, check_dir=False), name="graphiql")


def from_this_machine(request: HTTPConnection) -> bool:
    """Whether a browser on this machine navigates to the page under an address of this machine.

    The page holds a token that may do much, so three ways to steal it are closed: another machine that
    reaches the port; a site whose name resolves to 127.0.0.1 (its name is in Host); and a script of another
    site that is allowed to call the API (it fetches, and does not navigate). What a proxy passes on is never
    of this machine.
    """
    peer = request.client.host if request.client else ""
    proxied = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip", "via"))
    navigates = request.headers.get("sec-fetch-dest", "document") == "document"
    return _is_loopback(peer) and _is_loopback(_host_asked_for(request)) and navigates and not proxied


def _host_asked_for(request: HTTPConnection) -> str:
    # Not request.url: for a name that it dislikes ("a_b.example"), that one puts the server's own address.
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _page(known: dict[str, str | None]) -> str:
    # Inside a script element only "<" could end it; JSON writes it in another way just as well.
    configuration = json.dumps(known).replace("<", "\\u003c")
    return Template((SOURCES / "page.html").read_text("utf-8")).substitute(configuration=configuration)


class _Assets(StaticFiles):
    """Files that a browser keeps and asks about each time, so that it sees a new build at once."""

    async def check_config(self) -> None:
        """Assets that have not been built yet are not found, like any other; the page says what to do."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        # A worker is held by the policy that its own script came with, not by the page's.
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response
