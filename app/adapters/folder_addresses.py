"""Signed addresses below `/objects/`: who has one may send this part, or read this object, until it expires.

An address is `/objects/KEY?CLAIM=…&expires=SECONDS&signature=HEX`; `expires` counts from the Unix epoch. The
signature is HMAC-SHA256 (RFC 2104) over method, key and every claim, under a key of its own that is derived
from the gateway's secret, so that nothing else signed with the secret can be taken for an address.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from app.adapters.content_disposition import plain_file_name
from app.errors import Forbidden
from app.ports import SignedRequest

Clock = Callable[[], datetime]

_PART_CLAIMS = ("part", "offset", "length", "expires")
_DOWNLOAD_CLAIMS = ("name", "expires")


class AddressExpired(Forbidden):
    """Raised when an address was good once."""

    code = "ADDRESS_EXPIRED"


@dataclass(frozen=True, slots=True)
class PartAddress:
    """Where a part's bytes go: `length` bytes from `offset` of the object `key`. Parts count from 1."""

    key: str
    number: int
    offset: int
    length: int


class AddressBook:
    """Makes addresses, and tells those it made from others. Knows nothing of what lies behind them."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._signing_key = hmac.digest(secret, b"image-gateway object addresses, version 1", "sha256")
        self._clock = clock

    def for_part(self, part: PartAddress, expires_at: datetime) -> SignedRequest:
        """The PUT that brings `part`."""
        numbers = (part.number, part.offset, part.length, int(expires_at.timestamp()))
        claims = dict(zip(_PART_CLAIMS, map(str, numbers), strict=True))
        return SignedRequest("PUT", self._address("PUT", part.key, claims), expires_at)

    def for_download(self, key: str, file_name: str, expires_at: datetime) -> SignedRequest:
        """The GET that reads an object. Of `file_name` only what makes a harmless file name gets in."""
        claims = {"name": plain_file_name(file_name), "expires": str(int(expires_at.timestamp()))}
        return SignedRequest("GET", self._address("GET", key, claims), expires_at)

    def read_part(self, key: str, query: Mapping[str, str]) -> PartAddress:
        """The part that an address is for. Raises AddressExpired, or Forbidden when it is none of ours."""
        claims = self._verified("PUT", key, _PART_CLAIMS, query)
        return PartAddress(key, int(claims["part"]), int(claims["offset"]), int(claims["length"]))

    def read_download(self, key: str, query: Mapping[str, str]) -> str:
        """The file name in a download's address. Raises AddressExpired and Forbidden as `read_part` does."""
        return self._verified("GET", key, _DOWNLOAD_CLAIMS, query)["name"]

    def _address(self, method: str, key: str, claims: Mapping[str, str]) -> str:
        query = urlencode({**claims, "signature": self._signature(method, key, claims)})
        return f"/objects/{key}?{query}"

    def _verified(self, method: str, key: str, names: tuple[str, ...], query: Mapping[str, str]) -> Mapping[str, str]:
        claims = {name: query.get(name, "") for name in names}
        given = query.get("signature", "").encode(errors="replace")
        if not hmac.compare_digest(self._signature(method, key, claims).encode(), given):
            raise Forbidden(
                "The signature does not fit this request.",
                hint="Use the address exactly as the API gave it, with its method.",
            )
        if self._clock().timestamp() >= int(claims["expires"]):
            raise AddressExpired("The address has expired.", hint="Ask the API for a new one.")
        return claims

    def _signature(self, method: str, key: str, claims: Mapping[str, str]) -> str:
        # JSON keeps the fields apart, whatever is in them.
        message = json.dumps([method, key, *claims.items()]).encode()
        return hmac.new(self._signing_key, message, hashlib.sha256).hexdigest()
