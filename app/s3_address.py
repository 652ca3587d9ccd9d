"""The address of a bucket: `s3+http(s)://key:secret@host:port/bucket/prefix?region=…`, taken apart."""

import re
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

_FORM = "s3+http(s)://key:secret@host:port/bucket"
# Amazon S3, "Bucket naming rules": dots would break TLS names, and are refused by path-style stores no more.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[a-z0-9_][a-z0-9_.-]*(/[a-z0-9_][a-z0-9_.-]*)*")
_SCHEMES = {"s3+http": False, "s3+https": True}


@dataclass(frozen=True, slots=True)
class S3Key:
    """A key of an S3 store: its name, which every request and every signed URL shows, and its secret."""

    name: str
    secret: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `key:secret`. Raises ValueError, whose text never holds the secret."""
        name, _, secret = text.partition(":")
        if not name or not secret:
            raise ValueError("a key has the form key:secret")
        return cls(name, secret)


@dataclass(frozen=True, slots=True)
class S3Address:
    """Where a bucket is and who may use it. `host` has its port; `prefix` is empty or ends with a slash.

    `region` is part of what is signed; stores that have none take any.
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
        """Raises ValueError, whose text says what is wrong and never holds the secret."""
        # What urlsplit complains of may quote what it was given.
        try:
            parts = urlsplit(text)
            host = _host_of(parts)
        except ValueError:
            raise ValueError(f"the address has to have the form {_FORM}") from None
        if parts.scheme not in _SCHEMES or not host:
            raise ValueError(f"the address has to have the form {_FORM}")
        if not parts.username or not parts.password:
            raise ValueError(f"the address names no key and secret: {_FORM}; `%2F` stands for a slash in them")
        bucket, _, prefix = parts.path.strip("/").partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise ValueError(f"{bucket!r} can't be the name of a bucket: 3 to 63 of a-z 0-9 . -")
        if prefix and not _PREFIX.fullmatch(prefix):
            raise ValueError(f"{prefix!r} can't be a prefix: names of a-z 0-9 _ . -, `/` between")
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
        """The same bucket, for a user of another key."""
        return replace(self, key=key.name, secret=key.secret)

    @property
    def endpoint(self) -> str:
        """The address of the store itself, without a path."""
        return f"{'https' if self.secure else 'http'}://{self.host}"

    @property
    def is_amazon(self) -> bool:
        """Whether this is Amazon's own S3, where a part has at most 5 GiB."""
        return self.host.split(":")[0].endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _host_of(parts: SplitResult) -> str:
    name = parts.hostname or ""
    shown = f"[{name}]" if ":" in name else name
    return f"{shown}:{parts.port}" if parts.port else shown


def _region_of(parts: SplitResult) -> str:
    given = parse_qs(parts.query, keep_blank_values=True)
    unknown = given.keys() - {"region"}
    if unknown:
        raise ValueError(f"the address has an option that is not known: {', '.join(sorted(unknown))}; there is region")
    return given.get("region", ["us-east-1"])[-1] or "us-east-1"
