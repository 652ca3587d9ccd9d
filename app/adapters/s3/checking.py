"""Checks whether a bucket can be used, and used safely."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from typing import TypeVar

from app.adapters.s3.bucket import Bucket
from app.adapters.s3.errors import StoreBusy
from app.adapters.s3.policies import uploads_resource
from app.adapters.s3.probe import PartUrlCopies, SignatureIgnored, UploadKeyRefused, try_part_urls
from app.adapters.trouble import STORE, UPLOAD_KEY, Trouble
from app.errors import StoreError
from app.s3_address import S3Address, S3Key

T = TypeVar("T")

# Checking the keys of the store takes a dozen requests.
_PROBE_SECONDS = 10.0


def trouble_of(address: S3Address, upload_key: S3Key | None, seconds: float) -> Trouble | None:
    """Why the bucket can't be used safely; None when it can. A request may take `seconds`.

    Objects that are put into the bucket for the check are deleted again.
    """
    try:
        _within(seconds, lambda: _require_listing(address))
        _within(_PROBE_SECONDS, lambda: try_part_urls(address, upload_key))
    except (UploadKeyRefused, PartUrlCopies, SignatureIgnored) as unsafe:
        return _upload_trouble(unsafe, address, upload_key)
    except TimeoutError:
        return Trouble(STORE, "the object store does not answer in time")
    except StoreError as error:
        return Trouble(STORE, str(error), wrong=not isinstance(error, StoreBusy))
    return None


def _upload_trouble(
    unsafe: UploadKeyRefused | PartUrlCopies | SignatureIgnored, address: S3Address, upload_key: S3Key | None
) -> Trouble:
    match unsafe:
        case SignatureIgnored():
            remedy = "Use a MinIO in which this is fixed: `.ci/minio` builds one; see docs/signed-urls.md"
            return Trouble(STORE, str(unsafe), wrong=True, remedy=remedy)
        case PartUrlCopies() if upload_key is None:
            remedy = "Set it to the key:secret of a key whose only permission is"
        case _:
            remedy = "Give this key only the permission"
    remedy += (
        f" s3:PutObject on {uploads_resource(address)}. `images migrate` creates it in MinIO with "
        "IMAGES_OBJECT_STORE_ADMIN_KEY; for other stores, see docs/signed-urls.md"
    )
    return Trouble(UPLOAD_KEY, str(unsafe), wrong=True, remedy=remedy)


def _require_listing(address: S3Address) -> None:
    with closing(Bucket(address, connections=1, patience=0)) as bucket:
        next(bucket.keys(), None)


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`. Raises TimeoutError when it takes longer; the call then continues in its thread."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="reaching", daemon=True).start()
    return answer.result(seconds)
