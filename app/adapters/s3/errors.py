"""What an S3 store answers when it refuses, as errors of ours. Only codes are kept: texts of a store hold its paths.

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
    """Raised when the same request may succeed a moment later."""


class NotOffered(StoreUnavailable):
    """Raised when this store has no such function."""


_KNOWN: dict[str, Callable[[], StoreError]] = {
    "NoSuchKey": lambda: ObjectMissing("no such object"),
    "NoSuchUpload": lambda: UploadClosed("the upload is not open"),
    # A part was sent again between the look at it and the request that names it.
    "InvalidPart": lambda: PartsArriving("a part is arriving"),
    "XMinioStorageFull": lambda: StoreFull("the object store has no room"),
    "XMinioAdminBucketQuotaExceeded": lambda: StoreFull("the bucket's quota is used up"),
    "NotImplemented": lambda: NotOffered("the object store does not offer that"),
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
    """Turns what the minio package and urllib3 raise into StoreError; StoreBusy where another attempt may help."""
    try:
        yield
    except S3Error as error:
        raise refusal(error.code, error.response.status) from error
    except ServerError as error:
        raise refusal(None, error.status_code) from error
    except InvalidResponseError as error:
        # A proxy's page, and not the store's own answer.
        raise StoreBusy("the object store does not answer as one: is there something in between?") from error
    except SSLError as error:
        raise StoreUnavailable("the object store shows a certificate that does not hold") from error
    except (HTTPError, OSError, ParseError) as error:
        raise StoreBusy(f"the object store does not answer: {type(error).__name__}") from error
    except MinioException as error:
        raise StoreUnavailable(f"the object store can't be used: {type(error).__name__}") from error


def refusal(code: str | None, status: int) -> StoreError:
    """The error for an answer with this code of the store (None when it gave none) and this status of HTTP."""
    if code in _KNOWN:
        return _KNOWN[code]()
    if status == _NO_ROOM:
        return StoreFull("the object store has no room")
    reason = code or f"status {status}"
    if code in _PASSING or status >= 500 or status == 429:
        return StoreBusy(f"the object store is busy: {reason}")
    return StoreUnavailable(f"the object store refuses: {reason}")


def require(response: BaseHTTPResponse, status: int) -> None:
    """Raises the error that an answer stands for, when it has another status than this one."""
    if response.status != status:
        if response.data:
            raise S3Error.fromxml(response)
        raise refusal(None, response.status)
