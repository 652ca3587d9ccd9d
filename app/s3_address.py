"""Parses the address of a bucket: `s3+http(s)://key:secret@host:port/bucket/prefix?region=…`."""

import re
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

_FORM = "s3+http(s)://key:secret@host:port/bucket"
# Amazon S3, "Bucket naming rules". Dots are allowed: in path-style URLs, the bucket is not part of a TLS name.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[a-z0-9_][a-z0-9_.-]*(/[a-z0-9_][a-z0-9_.-]*)*")
_SCHEMES = {"s3+http": False, "s3+https": True}


@dataclass(frozen=True, slots=True)
class S3Key:
    """A key of an S3 store: its secret, and its name, which every request and every signed URL contains."""

    name: str
    secret: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `key:secret`. Raises ValueError, whose text never contains the secret."""
        name, _, secret = text.partition(":")
        if not name or not secret:
            raise ValueError("the key must have the form key:secret")
        return cls(name, secret)


@dataclass(frozen=True, slots=True)
class S3Address:
    """The address of a bucket and the key to it. `host` includes the port; `prefix` is empty or ends with a slash.

    `region` is part of what is signed; stores without regions accept any.
    """

    host: str
    secure: bool
    bucket: str
    key: str
    secret: str = field(repr=False)
    prefix: str = ""
    region: str = "us-east-1"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address. Raises ValueError, whose text says what is wrong and never contains the secret."""
        # The text of urlsplit's errors may quote its argument.
        try:
            parts = urlsplit(text)
            host = _host_of(parts)
        except ValueError:
            raise ValueError(f"the address must have the form {_FORM}") from None
        if parts.scheme not in _SCHEMES or not host:
            raise ValueError(f"the address must have the form {_FORM}")
        if not parts.username or not parts.password:
            raise ValueError(f"the address has no key and secret; write {_FORM}, and `%2F` for a slash in them")
        bucket, _, prefix = parts.path.strip("/").partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise ValueError(f"{bucket!r} is not a valid bucket name; use 3 to 63 characters of a-z 0-9 . -")
        if prefix and not _PREFIX.fullmatch(prefix):
            raise ValueError(f"{prefix!r} is not a valid prefix; use names of a-z 0-9 _ . -, separated by `/`")
        return cls(
            host=host,
            secure=_SCHEMES[parts.scheme],
            bucket=bucket,
            key=unquote(parts.username),
            secret=unquote(parts.password),
            prefix=f"{prefix}/" if prefix else "",
            region=_region_of(parts),
        )

    def with_key(self, key: S3Key) -> Self:
        """The same bucket with another key."""
        return replace(self, key=key.name, secret=key.secret)

    @property
    def endpoint(self) -> str:
        """The address of the store itself, without a path."""
        return f"{'https' if self.secure else 'http'}://{self.host}"

    @property
    def is_amazon(self) -> bool:
        """Whether this is Amazon's own S3, which limits a part to 5 GiB."""
        return self.host.split(":")[0].endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _host_of(parts: SplitResult) -> str:
    name = parts.hostname or ""
    shown = f"[{name}]" if ":" in name else name
    return f"{shown}:{parts.port}" if parts.port else shown


def _region_of(parts: SplitResult) -> str:
    given = parse_qs(parts.query, keep_blank_values=True)
    unknown = given.keys() - {"region"}
    if unknown:
        raise ValueError(f"the address has an unknown option: {', '.join(sorted(unknown))}; only region is supported")
    return given.get("region", ["us-east-1"])[-1] or "us-east-1"
