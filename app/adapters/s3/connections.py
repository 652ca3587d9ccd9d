"""Connections to an S3 store: for orders, for orders that take long, and for bytes."""

import os
import ssl

import certifi
import urllib3
from minio import Minio

from app.s3_address import S3Address

# Seconds of silence. urllib3 takes the first of them for a body that is being sent, too.
_ORDERS = urllib3.Timeout(connect=5, read=30)
_BYTES = urllib3.Timeout(connect=30, read=60)
# Putting 10,000 parts together, or copying 5 GiB, is done before the store says a word.
_HEAVY = urllib3.Timeout(connect=5, read=900)


class Connections:
    """What talks to one store. Connects when something is asked; none of it tries again by itself."""

    def __init__(self, address: S3Address, kept: int) -> None:
        """Of each sort, up to `kept` connections stay open between requests; there may be more at work."""
        trust = trusted() if address.secure else None
        self._pools = [
            urllib3.PoolManager(timeout=silence, retries=False, maxsize=kept, ssl_context=trust)
            for silence in (_ORDERS, _HEAVY, _BYTES)
        ]
        orders, heavy, self.bytes = self._pools
        self.orders = _client(address, orders)
        self.heavy = _client(address, heavy)

    def close(self) -> None:
        """Let go of all connections that are idle."""
        for pool in self._pools:
            pool.clear()


def _client(address: S3Address, pool: urllib3.PoolManager) -> Minio:
    # Where the region is given, the package does not ask the store for it.
    return Minio(
        address.host,
        access_key=address.key,
        secret_key=address.secret,
        secure=address.secure,
        region=address.region,
        http_client=pool,
    )


def trusted() -> ssl.SSLContext:
    """The machine's authorities and those of certifi; where SSL_CERT_FILE names a file, those in it alone."""
    context = ssl.create_default_context()
    if not os.environ.get("SSL_CERT_FILE"):
        context.load_verify_locations(certifi.where())
    return context
