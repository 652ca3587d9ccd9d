"""`/healthz`: whether the process is alive. `/readyz`: whether it can work, and if not, why."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from app.errors import GatewayError

log = structlog.get_logger()

Check = Callable[[], Awaitable[None]]

# Most clients are load balancers, which do not wait long either.
_PATIENCE_SECONDS = 3.0


def health_routes(needed: Mapping[str, Check], helpful: Mapping[str, Check]) -> list[Route]:
    """The two routes. Both mappings contain checks by name, which raise when they fail.

    The process is not ready when a `needed` check fails. When a `helpful` one fails, the process still works, only more
    slowly. It stays ready, since the check would fail in all processes, and none would be left in service.
    """

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        checks = {**needed, **helpful}
        answers = await asyncio.gather(*(_state(name, check) for name, check in checks.items()))
        states = dict(zip(checks, answers, strict=True))
        ready = all(states[name] == "ok" for name in needed)
        degraded = {name: f"degraded: {states[name]}" for name in helpful if states[name] != "ok"}
        return JSONResponse(
            {"ready": ready, "checks": states | degraded},
            status_code=200 if ready else 503,
            headers={"Cache-Control": "no-store"},
        )

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


async def _state(name: str, check: Check) -> str:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await check()
    except GatewayError as error:
        return str(error)
    except TimeoutError:
        return "no answer in time"
    except Exception:
        log.exception("readiness.failed", check=name)
        return "failed; see the log"
    return "ok"
