"""`/healthz`: the process lives. `/readyz`: it can do its work, or what keeps it from that."""

from collections.abc import Awaitable, Callable, Mapping

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from app.errors import GatewayError

log = structlog.get_logger()

Check = Callable[[], Awaitable[None]]


def health_routes(checks: Mapping[str, Check]) -> list[Route]:
    """The two routes; `checks` are what readiness takes, by name, each raising when it fails."""

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        states = {name: await _state(name, check) for name, check in checks.items()}
        ready = all(state == "ok" for state in states.values())
        return JSONResponse(
            {"ready": ready, "checks": states},
            status_code=200 if ready else 503,
            headers={"Cache-Control": "no-store"},
        )

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


async def _state(name: str, check: Check) -> str:
    try:
        await check()
    except GatewayError as error:
        return str(error)
    except Exception:
        log.exception("readiness.failed", check=name)
        return "failed; the log says why"
    return "ok"
