"""`/healthz`: the process lives. `/readyz`: it can do its work, or what keeps it from that."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from app.errors import GatewayError

log = structlog.get_logger()

Check = Callable[[], Awaitable[None]]

# Who asks is mostly a load balancer, which does not wait long either.
_PATIENCE_SECONDS = 3.0


def health_routes(needed: Mapping[str, Check], helpful: Mapping[str, Check]) -> list[Route]:
    """The two routes. Both mappings are checks by name, each raising when it fails.

    Without what is `needed` the process is not ready. Without what is `helpful` it answers all the same, only
    later: were it taken out of service for that, all its fellows would be, too.
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
        return "failed; the log says why"
    return "ok"
