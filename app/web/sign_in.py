"""POST /graphiql/signin: a browser exchanges the one-time code in its URL for a token.

The code arrives in the body. Before that, it is in the fragment of a URL: browsers send fragments to no server, so no
log and no Referer contains it.
"""

import asyncio
import json
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlsplit

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.adapters.tokens import SecretTokens
from app.catalog.people.sign_in import redeem
from app.client_network import network_of
from app.database.sessions import Database
from app.errors import DatabaseUnavailable, GatewayError
from app.sizes import KIB, counted

TOKEN_VALIDITY = timedelta(days=1)
_BODY_BYTES = KIB
_BODY_SECONDS = 10
_CODE = re.compile(r"[A-Za-z0-9_-]{43}")
# Maximum wrong codes per client address and minute, and how many addresses are remembered.
_WRONG_CODES = 20
_WINDOW_SECONDS = 60.0
_ADDRESSES = 10_000

log = structlog.get_logger()


class SignInRefused(GatewayError):
    """Raised when a request gets no token. `status` is the HTTP status, `hint` says what to do."""

    def __init__(self, status: int, code: str, message: str, hint: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "message": message, "hint": hint}
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class SignIn:
    """The endpoint. `tokens` is None where an OIDC issuer signs users in; then no code works."""

    def __init__(
        self,
        database: Database,
        tokens: SecretTokens | None,
        public_url: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._tokens = tokens
        self._public_url = public_url
        self._attempts = Attempts(clock)

    async def answer(self, request: Request) -> Response:
        """`{"token": …}` for a valid code, or `{"error": {code, message, hint}}`. No response may be cached."""
        try:
            return _response(200, {"token": await self._token(request)})
        except SignInRefused as refused:
            return _response(refused.status, {"error": refused.body}, refused.headers)
        except DatabaseUnavailable:
            message = "The database does not answer."
            return _response(503, {"error": {"code": "UNAVAILABLE", "message": message, "hint": "Try again."}})

    async def _token(self, request: Request) -> str:
        if request.method != "POST":
            raise SignInRefused(405, "METHOD_NOT_ALLOWED", "Send the code by POST.", Allow="POST")
        require_same_origin(request, self._public_url)
        code = await _code_in(request)
        address = network_of(request.client)
        self._attempts.require_left(address)
        signed_in = await redeem(self._database, code) if self._tokens and _CODE.fullmatch(code) else None
        if signed_in is None or self._tokens is None:
            self._attempts.wrong(address)
            log.warning("sign_in.refused", client=address)
            message = "This sign-in URL was already used, was replaced, or has expired."
            raise SignInRefused(403, "CODE_REFUSED", message, "Run `images signin` to get a new one.")
        log.info("sign_in.done", subject=signed_in.subject, client=address)
        return self._tokens.issue(
            signed_in.subject,
            name=signed_in.name,
            valid=TOKEN_VALIDITY,
            operator=signed_in.operator,
            issued_after=signed_in.issued_after,
        )


class Attempts:
    """Counts wrong codes per client address and minute."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Per address, when its window began and how many wrong codes it sent since.
        self._wrong: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def require_left(self, address: str) -> None:
        """Raises SignInRefused when the address has to wait."""
        began, count = self._wrong.get(address, (0.0, 0))
        left = began + _WINDOW_SECONDS - self._clock()
        if count >= _WRONG_CODES and left > 0:
            seconds = math.ceil(left)
            message = f"This client sent too many wrong sign-in codes: {_WRONG_CODES} within a minute."
            hint = f"Wait {counted(seconds, 'second')}, or paste a token."
            raise SignInRefused(429, "TOO_MANY_ATTEMPTS", message, hint, Retry_After=str(seconds))

    def wrong(self, address: str) -> None:
        """Count a wrong code."""
        now = self._clock()
        began, count = self._wrong.pop(address, (now, 0))
        self._wrong[address] = (began, count + 1) if now < began + _WINDOW_SECONDS else (now, 1)
        if len(self._wrong) > _ADDRESSES:
            self._wrong.popitem(last=False)


def require_same_origin(request: Request, public_url: str | None) -> None:
    """Raises SignInRefused for a request from a page of another origin.

    Browsers report the origin in Sec-Fetch-Site, which no script can forge. They omit it for URLs without TLS; then
    Origin has to name the requested host, or the public URL, since a proxy may change the host.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = {request.headers.get("host", "").lower(), urlsplit(public_url or "").netloc.lower()} - {""}
    if site == "same-origin" or (site is None and (origin is None or urlsplit(origin).netloc.lower() in own)):
        return
    hint = "Open the URL that `images signin` prints; behind a proxy, set IMAGES_PUBLIC_URL."
    raise SignInRefused(403, "CROSS_ORIGIN", "Only the gateway's own page may exchange a sign-in code.", hint)


async def _code_in(request: Request) -> str:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A page of another origin can't send JSON without a CORS preflight.
    if media_type != "application/json":
        raise SignInRefused(415, "UNSUPPORTED_MEDIA_TYPE", "Send the code as JSON.")
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            body = await _body_of(request)
    except TimeoutError:
        message = f"The body did not arrive within {_BODY_SECONDS} seconds."
        raise SignInRefused(408, "BODY_TOO_SLOW", message, Connection="close") from None
    try:
        code = json.loads(body)["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        code = None
    if not isinstance(code, str):
        raise SignInRefused(400, "BAD_REQUEST", 'Send the code as {"code": "…"}.')
    return code


async def _body_of(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_BYTES:
            message = f"The body is longer than {_BODY_BYTES // KIB} KiB."
            raise SignInRefused(413, "BODY_TOO_LARGE", message, Connection="close")
    return bytes(body)


def _response(status: int, body: object, headers: dict[str, str] | None = None) -> Response:
    usual = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return JSONResponse(body, status_code=status, headers=usual | (headers or {}))
