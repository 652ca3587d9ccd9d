"""`/metrics` on the API's own port, which every client can reach: only for operators."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app import metrics
from app.errors import NotAuthenticated
from app.viewer import Viewer

ViewerOf = Callable[[Request], Awaitable[Viewer]]

_HINT = "Send an operator's token, or set IMAGES_METRICS_PORT to serve /metrics on a separate port."


def metrics_route(viewer_of: ViewerOf) -> Route:
    """The route. `viewer_of` identifies the caller, may raise NotAuthenticated, and must not query the database."""

    async def answer(request: Request) -> Response:
        try:
            viewer = await viewer_of(request)
        except NotAuthenticated as error:
            return _refused(401, "UNAUTHENTICATED", str(error) or "Send a valid token.")
        if viewer.anonymous:
            return _refused(401, "UNAUTHENTICATED", "Metrics are for operators.")
        if not viewer.operator:
            return _refused(403, "FORBIDDEN", "Metrics are for operators, and this token does not belong to one.")
        return Response(metrics.page(), media_type=metrics.CONTENT_TYPE, headers={"Cache-Control": "no-store"})

    return Route("/metrics", answer)


def _refused(status: int, code: str, message: str) -> Response:
    headers = {"Cache-Control": "no-store"} | ({"WWW-Authenticate": "Bearer"} if status == 401 else {})
    content = {"error": {"code": code, "message": message, "hint": _HINT}}
    return JSONResponse(content, status_code=status, headers=headers)
