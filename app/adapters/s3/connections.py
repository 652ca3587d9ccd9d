"""Connections to an S3 store: for short requests, for long ones, and for bytes."""

import os
import ssl

import certifi
import urllib3
from minio import Minio

from app.s3_address import S3Address

# Timeouts in seconds. urllib3 applies `connect` also to sending a body.
_ORDERS = urllib3.Timeout(connect=5, read=30)
_BYTES = urllib3.Timeout(connect=30, read=60)
# The store assembles 10,000 parts, or copies 5 GiB, before it sends the first byte.
_HEAVY = urllib3.Timeout(connect=5, read=900)


class Connections:
    """Connection pools for one store. They connect at the first request, and do not retry."""

    def __init__(self, address: S3Address, kept: int) -> None:
        """Up to `kept` connections of each kind stay open between requests; more may be in use."""
        trust = trusted() if address.secure else None
        self._pools = [
            urllib3.PoolManager(timeout=silence, retries=False, maxsize=kept, ssl_context=trust)
            for silence in (_ORDERS, _HEAVY, _BYTES)
        ]
        orders, heavy, self.bytes = self._pools
        self.orders = _client(address, orders)
        self.heavy = _client(address, heavy)

    def close(self) -> None:
        """Close all idle connections."""
        for pool in self._pools:
            pool.clear()


def _client(address: S3Address, pool: urllib3.PoolManager) -> Minio:
    # With a region, the package does not ask the store for it.
    return Minio(
        address.host,
        access_key=address.key,
        secret_key=address.secret,
        secure=address.secure,
        region=address.region,
        http_client=pool,
    )


def trusted() -> ssl.SSLContext:
    """The certificate authorities of the machine and of certifi; with SSL_CERT_FILE, only those in that file."""
    context = ssl.create_default_context()
    if not os.environ.get("SSL_CERT_FILE"):
        context.load_verify_locations(certifi.where())
    return context
