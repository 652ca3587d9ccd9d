"""Prepares a bucket of an S3 store, and the keys by which it is used."""

import asyncio
from collections.abc import Sequence
from contextlib import closing

from app.adapters.s3.bucket import Bucket
from app.adapters.s3.keys import create_keys
from app.adapters.s3.store import S3Store
from app.adapters.trouble import STORE, UPLOAD_KEY
from app.errors import SettingsError, StoreError
from app.s3_address import S3Address, S3Key
from app.settings import Settings


def prepare_bucket(settings: Settings, address: S3Address) -> Sequence[str]:
    """Configure the bucket; with an administrator's key, also create it and the keys. Raises SettingsError.

    Returns sentences for the operator about what remains to be done.
    """
    with closing(S3Store(address, settings.object_store_public_url)) as store:
        try:
            if settings.admin_key is not None:
                _create_bucket_and_keys(address, settings.upload_key, settings.admin_key)
            return asyncio.run(store.prepare(settings.allowed_origins))
        except StoreError as error:
            raise SettingsError(f"{STORE}: {error}") from error


def _create_bucket_and_keys(address: S3Address, upload_key: S3Key | None, admin: S3Key) -> None:
    if upload_key is None:
        raise SettingsError(f"{UPLOAD_KEY}: not set. Choose a key:secret; IMAGES_OBJECT_STORE_ADMIN_KEY creates it")
    if len({address.key, upload_key.name, admin.name}) < 3:
        raise SettingsError(f"{UPLOAD_KEY}, IMAGES_OBJECT_STORE_ADMIN_KEY and {STORE} must name three different keys")
    # The gateway's own key may not create buckets.
    with closing(Bucket(address.with_key(admin))) as bucket:
        bucket.make()
    create_keys(address, upload_key, admin)
