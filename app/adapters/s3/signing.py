"""Signed URLs: AWS Signature Version 4 in the query.

Source: "Authenticating requests: using query parameters" in the Amazon S3 API reference. The minio package also
signs URLs, but can't include headers. With a signed `content-length`, the store itself refuses a body of another
length.
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from urllib.parse import quote, urlsplit

from app.s3_address import S3Address

LONGEST = timedelta(days=7)

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Signer:
    """Signs requests for the objects of one bucket, at one endpoint of the store."""

    def __init__(self, address: S3Address, endpoint: str | None = None) -> None:
        """`endpoint` is `http(s)://host:port`; by default, that of the address."""
        parts = urlsplit(endpoint or address.endpoint)
        # Clients omit a default port from the Host header.
        usual = parts.port == _DEFAULT_PORTS[parts.scheme]
        self._host = parts.netloc.rpartition(":")[0] if usual else parts.netloc
        self._origin = f"{parts.scheme}://{self._host}"
        self._address = address

    def sign(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        *,
        at: datetime,
        lifetime: timedelta,
        length: int | None = None,
    ) -> str:
        """The URL of a request, valid from `at` for 1 s to 7 days.

        With `length`, the body must have that many bytes, and must not be chunked.
        """
        address = self._address
        day = f"{at.astimezone(UTC):%Y%m%d}"
        moment = f"{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        scope = f"{day}/{address.region}/s3/aws4_request"
        names = "host" if length is None else "content-length;host"
        headers = f"host:{self._host}\n" if length is None else f"content-length:{length}\nhost:{self._host}\n"
        path = quote(f"/{address.bucket}/{address.prefix}{key}", safe="/~")
        whole = _query(
            {
                **query,
                "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
                "X-Amz-Credential": f"{address.key}/{scope}",
                "X-Amz-Date": moment,
                "X-Amz-Expires": str(int(lifetime.total_seconds())),
                "X-Amz-SignedHeaders": names,
            }
        )
        request = "\n".join((method, path, whole, headers, names, "UNSIGNED-PAYLOAD"))
        signed = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()))
        signature = hmac.digest(_signing_key(address.secret, day, address.region), signed.encode(), "sha256").hex()
        return f"{self._origin}{path}?{whole}&X-Amz-Signature={signature}"


def _query(pairs: Mapping[str, str]) -> str:
    encoded = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in pairs.items())
    return "&".join(f"{name}={value}" for name, value in encoded)


@lru_cache(maxsize=8)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for step in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return key
