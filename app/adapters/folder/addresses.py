"""Signed addresses below `/objects/`: requests that upload a part or read an object until they expire.

An address is `/objects/KEY?CLAIM=…&expires=SECONDS&for=TEXT&signature=HEX`; `expires` counts from the Unix epoch.
The signature is HMAC-SHA256 (RFC 2104) over method, key and every claim, with a separate key that is derived from the
gateway's secret, so that nothing else signed with the secret is accepted as an address.

`for` identifies who requested the address. It is encrypted, since addresses end up in logs and browser histories.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from app.adapters.file_names import plain_file_name
from app.adapters.sealed_text import Sealer
from app.errors import Forbidden
from app.ports import Asker, SignedRequest

Clock = Callable[[], datetime]

_PART_CLAIMS = ("part", "offset", "length", "expires", "for")
_DOWNLOAD_CLAIMS = ("name", "expires", "for")
_SIGNATURE = "signature"


class AddressExpired(Forbidden):
    """Raised when an address has expired."""

    code = "ADDRESS_EXPIRED"


@dataclass(frozen=True, slots=True)
class PartAddress:
    """Where a part is written: `length` bytes from `offset` of the object `key`. Parts are numbered from 1."""

    key: str
    number: int
    offset: int
    length: int
    asker: Asker | None = None


@dataclass(frozen=True, slots=True)
class DownloadAddress:
    """An object to read, and the name under which browsers save it."""

    key: str
    file_name: str
    asker: Asker | None = None


class AddressBook:
    """Creates and verifies addresses, without access to the objects."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._signing_key = hmac.digest(secret, b"image-gateway object addresses, version 2", "sha256")
        self._sealer = Sealer(hmac.digest(secret, b"image-gateway askers of addresses, version 1", "sha256"))
        self._clock = clock

    def for_part(self, part: PartAddress, expires_at: datetime) -> SignedRequest:
        """The PUT that uploads `part`."""
        numbers = (part.number, part.offset, part.length, int(expires_at.timestamp()))
        claims = dict(zip(_PART_CLAIMS, (*map(str, numbers), self._sealed(part.asker, part.key)), strict=True))
        return SignedRequest("PUT", self._address("PUT", part.key, claims), expires_at)

    def for_download(self, download: DownloadAddress, expires_at: datetime) -> SignedRequest:
        """The GET that reads an object. Its file name is reduced to characters that are safe on every system."""
        key, end = download.key, str(int(expires_at.timestamp()))
        values = (plain_file_name(download.file_name), end, self._sealed(download.asker, key))
        claims = dict(zip(_DOWNLOAD_CLAIMS, values, strict=True))
        return SignedRequest("GET", self._address("GET", key, claims), expires_at)

    def read_part(self, key: str, query: Sequence[tuple[str, str]]) -> PartAddress:
        """The part that an address is for. `query` contains its arguments in order.

        Raises AddressExpired, or Forbidden for an address that was not created here in exactly this form.
        """
        claims = self._verified("PUT", key, _PART_CLAIMS, query)
        numbers = int(claims["part"]), int(claims["offset"]), int(claims["length"])
        return PartAddress(key, *numbers, self._opened(claims["for"], key))

    def read_download(self, key: str, query: Sequence[tuple[str, str]]) -> DownloadAddress:
        """The object that an address reads. Raises AddressExpired and Forbidden like `read_part`."""
        claims = self._verified("GET", key, _DOWNLOAD_CLAIMS, query)
        return DownloadAddress(key, claims["name"], self._opened(claims["for"], key))

    def _address(self, method: str, key: str, claims: Mapping[str, str]) -> str:
        query = urlencode({**claims, _SIGNATURE: self._signature(method, key, claims)})
        return f"/objects/{key}?{query}"

    def _verified(
        self, method: str, key: str, names: tuple[str, ...], query: Sequence[tuple[str, str]]
    ) -> Mapping[str, str]:
        given = dict(query)
        claims = {name: given.get(name, "") for name in names}
        signature = given.get(_SIGNATURE, "").encode(errors="replace")
        matches = hmac.compare_digest(self._signature(method, key, claims).encode(), signature)
        # Every argument exactly once, and no others: of two, a proxy in front of the gateway may read the other one.
        if not matches or sorted(name for name, _ in query) != sorted((*names, _SIGNATURE)):
            raise Forbidden(
                "The signature does not match this request.",
                hint="Use the address exactly as the API returned it, with its method.",
            )
        if self._clock().timestamp() >= int(claims["expires"]):
            raise AddressExpired("The address has expired.", hint="Request a new one from the API.")
        return claims

    def _signature(self, method: str, key: str, claims: Mapping[str, str]) -> str:
        # JSON separates the fields, whatever they contain.
        message = json.dumps([method, key, *claims.items()]).encode()
        return hmac.new(self._signing_key, message, hashlib.sha256).hexdigest()

    def _sealed(self, asker: Asker | None, key: str) -> str:
        if asker is None:
            return ""
        return self._sealer.seal(json.dumps([asker.subject, asker.operator, asker.target]), key)

    def _opened(self, text: str, key: str) -> Asker | None:
        """Who requested the address. The signature was verified before, so the text was sealed here."""
        return Asker(*json.loads(self._sealer.open(text, key))) if text else None
