"""GraphiQL at /graphql for browsers, and its assets under /graphiql/, all served by the gateway itself.

The assets are built by `make setup` from the packages that graphiql/package-lock.json pins. The page requests
nothing from any other host; its Content-Security-Policy enforces this.
"""

import json
from pathlib import Path
from string import Template

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
    # A page of an earlier version would request scripts that no longer exist.
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


def graphiql_page(*, embedded: bool, assets: Path = ASSETS) -> Response:
    """The page for a browser; 503 with instructions when `assets` have not been built.

    It is the same for every client, and contains no token, since the client can't be identified: behind a proxy on this
    machine every client appears local, and other users of the machine are local. `embedded` means that the gateway
    issues tokens itself.
    """
    if not (assets / "page.js").is_file():
        return HTMLResponse(NOT_BUILT, status_code=503, headers=PAGE_HEADERS)
    configuration = json.dumps({"embedded": embedded})
    page = Template((SOURCES / "page.html").read_text("utf-8")).substitute(configuration=configuration)
    return HTMLResponse(page, headers=PAGE_HEADERS)


def graphiql_assets(assets: Path = ASSETS) -> Mount:
    """The route of the page's scripts, workers, styles and fonts."""
    return Mount("/graphiql", _Assets(directory=assets, check_dir=False), name="graphiql")


class _Assets(StaticFiles):
    """Files that a browser caches and revalidates each time, so that it sees a new build at once."""

    async def check_config(self) -> None:
        """Skip the check of the folder: assets that have not been built yet are simply not found."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        # The policy of a worker comes with its own script, not with the page.
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response
