"""Errors of `/objects/…` as JSON: {"error": {"code", "message", "hint"}}, without anything internal."""

from starlette.responses import JSONResponse, Response

from app import metrics
from app.catalog.uploads import UploadEnded
from app.errors import (
    DATABASE_UNAVAILABLE_MESSAGE,
    DISK_FULL_MESSAGE,
    STORE_UNAVAILABLE_MESSAGE,
    DatabaseFull,
    DatabaseUnavailable,
    Forbidden,
    GatewayError,
    InvalidInput,
    NotFound,
    ObjectMissing,
    PartsArriving,
    StoreFull,
    StoreUnavailable,
    TooLarge,
    UploadClosed,
    UserMistake,
)


class Refusal(GatewayError):
    """Raised when a request is answered with an HTTP error. `headers` are added to the response."""

    def __init__(self, status: int, code: str, message: str, hint: str, headers: dict[str, str]) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.headers = headers


# Errors whose own text is meant for the caller.
_MISTAKES: dict[type[UserMistake], int] = {Forbidden: 403, InvalidInput: 400, NotFound: 404, TooLarge: 413}

# Errors of the store and the database, whose text is for operators: status, code, message, hint.
_STORE_ERRORS: dict[type[GatewayError], tuple[int, str, str, str]] = {
    UploadClosed: (
        409,
        "UPLOAD_CLOSED",
        "The upload accepts no bytes: it was completed, aborted or refused, or has expired.",
        "Query the status of the image.",
    ),
    PartsArriving: (
        409,
        "PART_ARRIVING",
        "Another request is sending this part, or the upload is being completed.",
        "Wait for the other request to end, then query which parts are missing.",
    ),
    StoreFull: (
        507,
        "STORE_FULL",
        DISK_FULL_MESSAGE,
        "Send the part again later; the upload stays open and keeps the parts that have arrived.",
    ),
    StoreUnavailable: (
        503,
        "STORE_UNAVAILABLE",
        STORE_UNAVAILABLE_MESSAGE,
        "Send the request again later; the upload keeps the parts that have arrived.",
    ),
    ObjectMissing: (
        404,
        "OBJECT_MISSING",
        "The object store no longer has these bytes.",
        "Query the image. If it is still ACTIVE, ask the operator to run `images fsck`, which finds missing objects.",
    ),
    DatabaseFull: (
        507,
        "STORAGE_UNAVAILABLE",
        DISK_FULL_MESSAGE,
        "Send the part again later; the upload stays open and keeps the parts that have arrived.",
    ),
    DatabaseUnavailable: (
        503,
        "UNAVAILABLE",
        DATABASE_UNAVAILABLE_MESSAGE,
        "Send the request again later; the upload keeps the parts that have arrived.",
    ),
}


def error_answer(error: GatewayError) -> Response:
    """The response for an error. Raises the error itself when there is none for its type."""
    if isinstance(error, Refusal):
        return _answer(error.status, error.code, error.message, error.hint, error.headers)
    if isinstance(error, UploadEnded):
        return _answer(409, "UPLOAD_CLOSED", error.message, error.hint)
    for mistake, status in _MISTAKES.items():
        if isinstance(error, mistake):
            return _answer(status, error.code, error.message, error.hint)
    for kind, texts in _STORE_ERRORS.items():
        if isinstance(error, kind):
            return _answer(*texts)
    raise error


def _answer(status: int, code: str, message: str, hint: str | None, headers: dict[str, str] | None = None) -> Response:
    metrics.ERRORS.labels("objects", code).inc()
    content = {"error": {"code": code, "message": message, "hint": hint}}
    return JSONResponse(content, status_code=status, headers=headers)
