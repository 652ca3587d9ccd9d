"""Creates the gateway's keys in MinIO, with the admin API of the minio package."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import urllib3
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException

from app.adapters.s3.connections import trusted
from app.adapters.s3.errors import store_errors
from app.adapters.s3.policies import Policy, gateway_policy, upload_policy
from app.errors import StoreUnavailable
from app.s3_address import S3Address, S3Key

_SILENCE = urllib3.Timeout(connect=5, read=30)


def create_keys(address: S3Address, upload_key: S3Key, admin: S3Key) -> None:
    """Create the key in `address` and the one that signs part URLs, each with only the policy that it needs.

    Existing keys get these secrets and policies, so this also rotates secrets. Raises StoreUnavailable.
    """
    with _administration(address, admin) as minio:
        for use, key, policy in (
            ("gateway", S3Key(address.key, address.secret), gateway_policy(address)),
            ("uploads", upload_key, upload_policy(address)),
        ):
            _create(minio, key, _policy_name(use, address), policy)


def _create(minio: MinioAdmin, key: S3Key, policy_name: str, policy: Policy) -> None:
    minio.policy_add(policy_name, policy={**policy})
    minio.user_add(key.name, key.secret)
    # Replaces the policies that the key had before.
    minio.policy_set(policy_name, user=key.name)


def _policy_name(use: str, address: S3Address) -> str:
    """A name that is unique per bucket and prefix, since these contain no colon."""
    return ":".join(("image-gateway", use, address.bucket, *filter(None, address.prefix.split("/"))))


@contextmanager
def _administration(address: S3Address, admin: S3Key) -> Iterator[MinioAdmin]:
    pool = urllib3.PoolManager(timeout=_SILENCE, retries=False, ssl_context=trusted() if address.secure else None)
    minio = MinioAdmin(
        endpoint=address.host,
        credentials=StaticProvider(admin.name, admin.secret),
        region=address.region,
        secure=address.secure,
        http_client=pool,
    )
    try:
        with store_errors():
            yield minio
    except MinioAdminException as refused:
        raise StoreUnavailable(f"MinIO refuses to create the keys: {_code_of(refused)}") from refused
    finally:
        pool.clear()


def _code_of(refused: MinioAdminException) -> str:
    """MinIO's code for an error; the HTTP status where another store answers."""
    try:
        return str(json.loads(refused._body)["Code"])
    except (ValueError, KeyError, TypeError):
        return f"status {refused._code}; in other stores, create the keys by hand: see docs/signed-urls.md"
