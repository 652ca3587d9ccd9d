"""The configuration: environment variables with the prefix IMAGES_, read once at start-up."""

import os
import re
import secrets
from datetime import date
from decimal import Decimal
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import SettingsError
from app.s3_address import S3Address, S3Key

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

# Amazon S3, "Multipart upload limits".
_AMAZON_LARGEST_PART = 5 * GIB

_RATE = re.compile(r"(\d{4}-\d{2}-\d{2})=(\d{1,9}(?:\.\d{1,12})?)")

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class ArchiveRate(NamedTuple):
    """What a GiB costs that is stored for a month, from the beginning of a day (UTC) on."""

    since: date
    per_gib_month: Decimal


class Settings(BaseSettings):
    """Every setting with its default. Sizes are bytes, times are seconds, unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="IMAGES_", extra="ignore")

    data: Path = Field(Path("data"), description="Folder of the embedded mode: database, objects, secret.")
    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port that the API listens on; 0 takes a free one.")
    public_url: str | None = Field(
        None, description="Address under which clients reach the gateway; without it, the one they used."
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins of browser consoles that may call the API, separated by commas."
    )

    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto count, separated by "
        "commas; without them, none do.",
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port of its own for /metrics, on IMAGES_HOST and without a token, for every process; without it, "
        "the API serves /metrics to operators.",
    )
    connections: int | None = Field(
        None,
        gt=0,
        description="Most connections of clients per process; without it, as many as its open files allow, "
        "at most 10,000.",
    )
    head_seconds: Seconds = Field(10, description="How long the head of a request may take to arrive.")
    unread_seconds: Seconds = Field(
        60, description="How long a client may read nothing of an answer before its connection is closed (Linux)."
    )

    database_url: SecretStr | None = Field(
        None, description="`postgresql://user:password@host:port/name`; without it, SQLite in the data folder."
    )
    database_connections: int = Field(
        10, ge=2, le=1000, description="Connections to PostgreSQL that a process opens at most."
    )
    broker_url: SecretStr | None = Field(
        None, description="`redis://:password@host:port/0`, or `rediss://` with TLS; without it, in-process."
    )
    object_store: SecretStr | None = Field(
        None,
        description="`s3+http(s)://key:secret@host:port/bucket`, or `file:///folder`; without it, in the data folder.",
    )
    object_store_upload_key: SecretStr | None = Field(
        None,
        description="`key:secret` that signs the URLs to which clients send parts in an S3 store. It may only put "
        "objects below `uploads/`; `images migrate` creates it in MinIO.",
    )
    object_store_admin_key: SecretStr | None = Field(
        None,
        description="`key:secret` of an administrator of MinIO, for `images migrate` alone: with it, that creates "
        "the bucket and the keys of the two settings above.",
    )
    object_store_public_url: str | None = Field(
        None, description="Address under which clients reach the S3 store; without it, the one above."
    )

    secret: SecretStr | None = Field(
        None, description="Signs tokens and addresses. Made and kept in the data folder when not given."
    )
    jwt_issuer: str | None = Field(None, description="OIDC issuer; with it, tokens are checked by its JWKS.")
    jwt_audience: str | None = Field(None, description="Audience that a token has to name.")
    jwt_algorithm: Literal["RS256", "ES256", "PS256", "EdDSA"] = Field(
        "RS256", description="The one algorithm that is accepted from the OIDC issuer."
    )
    jwks_url: str | None = Field(None, description="Where the keys are; without it, the issuer is asked.")
    operator_claim: str | None = Field(
        None,
        pattern=r"^[^=\s]+(=\S+)?$",
        description="The claim that makes the holder of an issuer's token an operator: `operator`, which has to be "
        "true, or `realm_access.roles=image-operator`, which has to be or to hold that text. Without it, nobody is.",
    )

    single_part_limit: Positive = Field(50 * GIB, description="Largest upload in one part.")
    upload_limit: Positive = Field(16 * TIB, description="Largest upload in parts.")
    virtual_size_limit: Positive = Field(16 * TIB, description="Largest disk that an image may describe.")
    minimum_part_size: Positive = Field(16 * MIB, description="Least size of a part; larger for large files.")
    maximum_parts: int = Field(10_000, gt=0, le=10_000, description="Most parts of one upload.")
    reserve_bytes: int = Field(
        32 * MIB, ge=0, description="Room on the disk of the data folder that is kept for deletions; 0 keeps none."
    )
    upload_idle_seconds: Seconds = Field(24 * 3600, description="An upload that gets no byte expires.")
    signature_seconds: Seconds = Field(6 * 3600, description="How long the address of a part works.")
    download_seconds: Seconds = Field(15 * 60, description="How long the address of a download works.")

    anonymous_requests_per_minute: Positive = Field(
        60, description="Requests without a token that one client address may send per minute to one API process."
    )
    subscriptions_per_subject: Positive = Field(
        1_000, description="Subscriptions that one subject may have open on one API process."
    )
    sockets_per_subject: Positive = Field(
        100, description="WebSockets and streams that one subject may have open on one API process."
    )
    body_seconds: Seconds = Field(30, description="How long the body of a GraphQL request may take to arrive.")

    feed_days: float = Field(7, gt=0, description="How long the feed is kept, in days.")
    feed_ring: Positive = Field(10_000, description="Newest events that an API process keeps in memory.")
    progress_seconds: Seconds = Field(0.5, description="Least time between two reports of an image.")
    poll_seconds: Seconds = Field(1, description="How often a process looks by itself, if no one wakes it.")

    workers: int = Field(2, gt=0, le=64, description="Jobs that one worker process runs at once.")
    lease_seconds: Seconds = Field(15, description="A job whose worker is silent for so long is given on.")
    job_attempts: Positive = Field(5, description="How often a job is begun before its image is given up.")
    turn_seconds: Seconds = Field(
        30,
        description="How long a conversion may take while other images wait, with a second more for every 4 MiB of its "
        "file; then they go first.",
    )
    require_confinement: bool = Field(
        False, description="Convert nothing where bubblewrap is missing or can't confine qemu; on in the compose file."
    )
    conversions_per_project: Positive = Field(
        4, description="Images of one project that are converted at once at most, by all workers together."
    )
    compression: Literal["none", "zstd"] = Field(
        "none", description="How clusters are compressed that a conversion in an S3 store writes anew."
    )
    share_bytes: Positive = Field(
        8 * GIB, description="An image with more data than this is converted by several workers, in an S3 store."
    )
    orphan_seconds: Seconds = Field(
        12 * 3600, description="An object that no row names is removed when it is this old."
    )

    custom_images_limit: Positive = Field(50, description="Custom images of a project without a limit.")
    image_storage_limit_gib: Positive = Field(500, description="Image storage of a project without a limit, in GiB.")

    snapshots_per_volume_limit: Positive = Field(
        100, description="Snapshots of a volume that are kept, in a project without a limit."
    )
    archive_rates: Annotated[tuple[ArchiveRate, ...], NoDecode] = Field(
        (),
        description="What a GiB costs that is stored for a month, each from a day (UTC) on: "
        "`2026-01-01=0.0036,2026-07-01=0.0030`. What was stored before the first of them is free.",
    )
    archive_currency: str = Field("EUR", pattern="^[A-Z]{3}$", description="The currency of the rates (ISO 4217).")

    @field_validator("archive_rates", mode="before")
    @classmethod
    def _rates(cls, given: object) -> object:
        return _read_rates(given) if isinstance(given, str) else given

    @field_validator("allowed_origins", "trusted_proxies", mode="before")
    @classmethod
    def _separated(cls, given: object) -> object:
        return tuple(part.strip() for part in given.split(",") if part.strip()) if isinstance(given, str) else given

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for part in given:
            try:
                ip_network(part)
            except ValueError as error:
                raise ValueError(f"{error}; write addresses and networks: 192.0.2.7,10.0.0.0/8") from None
        return given

    @field_validator("database_url")
    @classmethod
    def _postgresql(cls, given: SecretStr | None) -> SecretStr | None:
        return _address(given, {"postgresql", "postgres"}, "postgresql://user:password@host:port/name", path=True)

    @field_validator("broker_url")
    @classmethod
    def _redis(cls, given: SecretStr | None) -> SecretStr | None:
        return _address(given, {"redis", "rediss"}, "redis://:password@host:port/0")

    @field_validator("object_store")
    @classmethod
    def _store(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None and given.get_secret_value():
            text = given.get_secret_value()
            if _folder_of(text) is None:
                S3Address.parse(text)
            return given
        return None

    @field_validator("object_store_upload_key", "object_store_admin_key")
    @classmethod
    def _key(cls, given: SecretStr | None) -> SecretStr | None:
        return given if _key_of(given) else None

    @field_validator("object_store_public_url")
    @classmethod
    def _reachable(cls, given: str | None) -> str | None:
        parts = urlsplit(given or "")
        if given and (parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/")):
            raise ValueError("the address has to have the form http(s)://host:port")
        return given.rstrip("/") if given else None

    @property
    def database_address(self) -> str:
        """The SQLAlchemy address of the database."""
        if self.database_url is None:
            return f"sqlite+aiosqlite:///{self.data.absolute() / 'images.db'}"
        return "postgresql+asyncpg:" + self.database_url.get_secret_value().partition(":")[2]

    @property
    def s3(self) -> S3Address | None:
        """Where the bucket is; None when objects are kept in a folder."""
        text = self.object_store.get_secret_value() if self.object_store else "file:///"
        return None if _folder_of(text) else S3Address.parse(text)

    @property
    def upload_key(self) -> S3Key | None:
        """What signs part URLs in an S3 store; None for the key in its address."""
        return _key_of(self.object_store_upload_key)

    @property
    def admin_key(self) -> S3Key | None:
        """What creates bucket and keys."""
        return _key_of(self.object_store_admin_key)

    @property
    def objects_path(self) -> Path:
        """The folder of the object store, if it is one."""
        folder = self.object_store and _folder_of(self.object_store.get_secret_value())
        return folder or self.data.absolute() / "store"

    @property
    def largest_part(self) -> int:
        """The most bytes that an upload in one part may have, here and in the store."""
        amazon = self.s3 is not None and self.s3.is_amazon
        return min(self.single_part_limit, _AMAZON_LARGEST_PART) if amazon else self.single_part_limit

    @cached_property
    def secret_bytes(self) -> bytes:
        """The secret that signs; in the data folder, readable by its owner alone, when none is configured."""
        if self.secret is not None:
            return self.secret.get_secret_value().encode()
        return _kept_secret(self.data / "secret")


def load_settings(**given: object) -> Settings:
    """The settings of this process; `given` goes before the environment. Raises SettingsError."""
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as invalid:
        problems = "; ".join(f"IMAGES_{_name(error['loc'])}: {error['msg']}" for error in invalid.errors())
        raise SettingsError(problems) from None
    if settings.secret is not None and len(settings.secret_bytes) < 32:
        raise SettingsError("IMAGES_SECRET: has to have at least 32 bytes; `openssl rand -hex 32` makes one")
    return settings


def _name(location: tuple[int | str, ...]) -> str:
    return "_".join(str(part) for part in location).upper()


def _address(given: SecretStr | None, schemes: set[str], form: str, *, path: bool = False) -> SecretStr | None:
    """An address of one of these schemes. Raises ValueError, whose text does not quote it: it holds a password."""
    if given is None or not given.get_secret_value():
        return None
    try:
        parts = urlsplit(given.get_secret_value())
        whole = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or (path and not parts.path.strip("/")):
        raise ValueError(f"the address has to have the form {form}; special characters in it are written as %XX")
    return given


def _read_rates(text: str) -> tuple[ArchiveRate, ...]:
    """Rates by the day from which they hold. Raises ValueError."""
    rates: dict[date, Decimal] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = _RATE.fullmatch(part)
        if found is None:
            raise ValueError(f"{part!r} is no rate: 2026-01-01=0.0036 is the form, several are separated by commas")
        since = date.fromisoformat(found[1])
        if since in rates:
            raise ValueError(f"there are two rates for {since}")
        rates[since] = Decimal(found[2])
    return tuple(ArchiveRate(since, rates[since]) for since in sorted(rates))


def _key_of(given: SecretStr | None) -> S3Key | None:
    """The key that is written as key:secret; None for an empty text. Raises ValueError."""
    text = given.get_secret_value() if given else ""
    return S3Key.parse(text) if text else None


def _folder_of(address: str) -> Path | None:
    """The folder that a file:// address names; None for any other address."""
    parts = urlsplit(address)
    return Path(unquote(parts.path)) if parts.scheme == "file" and parts.path.startswith("/") else None


def _kept_secret(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written under another name and linked, so that two processes that start at once agree on one secret.
    draft = path.with_name(f".secret.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_bytes()
