"""Maps the errors of an S3 store to the gateway's. Keeps only codes, since a store's texts contain its paths.

The codes are those of "Error responses" in the Amazon S3 API reference, and MinIO's own, which begin with XMinio.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from xml.etree.ElementTree import ParseError  # nosec B405 (only the error; nothing is parsed with it)

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, SSLError
from urllib3.response import BaseHTTPResponse

from app.errors import ObjectMissing, PartsArriving, StoreError, StoreFull, StoreUnavailable, UploadClosed


class StoreBusy(StoreUnavailable):
    """Raised when a retry may succeed."""


class NotOffered(StoreUnavailable):
    """Raised when the store does not support a function."""


_KNOWN: dict[str, Callable[[], StoreError]] = {
    "NoSuchKey": lambda: ObjectMissing("no such object"),
    "NoSuchUpload": lambda: UploadClosed("the upload is not open"),
    # A part was sent again after it was listed and before the request that names it.
    "InvalidPart": lambda: PartsArriving("a part is arriving"),
    "XMinioStorageFull": lambda: StoreFull("the object store is full"),
    "XMinioAdminBucketQuotaExceeded": lambda: StoreFull("the bucket's quota is exhausted"),
    "NotImplemented": lambda: NotOffered("the object store does not support this function"),
    "NoSuchBucket": lambda: StoreUnavailable("the object store has no such bucket"),
    "RequestTimeTooSkewed": lambda: StoreUnavailable("the clocks of this machine and of the object store differ"),
}
_PASSING = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "XMinioBackendDown",
        "XMinioServerNotInitialized",
    }
)
_NO_ROOM = 507


@contextmanager
def store_errors() -> Iterator[None]:
    """Turns errors of the minio package and urllib3 into StoreError, or StoreBusy where a retry may succeed."""
    try:
        yield
    except S3Error as error:
        raise refusal(error.code, error.response.status) from error
    except ServerError as error:
        raise refusal(None, error.status_code) from error
    except InvalidResponseError as error:
        # The page of a proxy, not a response of the store.
        raise StoreBusy("the response is not from an object store; check for a proxy in between") from error
    except SSLError as error:
        raise StoreUnavailable("the certificate of the object store is not valid") from error
    except (HTTPError, OSError, ParseError) as error:
        raise StoreBusy(f"the object store does not answer: {type(error).__name__}") from error
    except MinioException as error:
        raise StoreUnavailable(f"the object store can't be used: {type(error).__name__}") from error


def refusal(code: str | None, status: int) -> StoreError:
    """The error for a response with this error code of the store (None without one) and this HTTP status."""
    if code in _KNOWN:
        return _KNOWN[code]()
    if status == _NO_ROOM:
        return StoreFull("the object store is full")
    reason = code or f"status {status}"
    if code in _PASSING or status >= 500 or status == 429:
        return StoreBusy(f"the object store is busy: {reason}")
    return StoreUnavailable(f"the object store refuses the request: {reason}")


def require(response: BaseHTTPResponse, status: int) -> None:
    """Raises the error of a response that does not have this status."""
    if response.status != status:
        if response.data:
            raise S3Error.fromxml(response)
        raise refusal(None, response.status)
