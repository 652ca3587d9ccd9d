"""The configuration: environment variables with the prefix IMAGES_, which are read once at start-up."""

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

import structlog
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import SettingsError
from app.s3_address import S3Address, S3Key
from app.sizes import GIB, MIB, TIB

# Amazon S3, "Multipart upload limits".
_AMAZON_LARGEST_PART = 5 * GIB

# Names of earlier versions that are still accepted, and the settings they stand for.
_OLD_NAMES = {"IMAGES_SHARE_BYTES": "split_bytes"}

_RATE = re.compile(r"(\d{4}-\d{2}-\d{2})=(\d{1,9}(?:\.\d{1,12})?)")

log = structlog.get_logger()

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class ArchiveRate(NamedTuple):
    """The price of storing a GiB for a month, valid from the start of a day (UTC)."""

    since: date
    per_gib_month: Decimal


class Settings(BaseSettings):
    """Every setting with its default. Sizes are in bytes and times in seconds, unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="IMAGES_", extra="ignore")

    data: Path = Field(Path("data"), description="Data folder of the embedded mode: database, objects and secret.")
    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port that the API listens on; 0 picks a free one.")
    public_url: str | None = Field(
        None, description="Public URL of the gateway; without it, the one that the client used."
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins of browser pages that may call the API, separated by commas."
    )

    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted, "
        "separated by commas; without them, no proxy is trusted.",
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Separate port for /metrics in every process, on IMAGES_HOST and without a token; without it, the "
        "API serves /metrics to operators.",
    )
    connections: int | None = Field(
        None,
        gt=0,
        description="Maximum client connections per process; without it, as many as its limit on open files allows, "
        "at most 10,000.",
    )
    head_seconds: Seconds = Field(10, description="How long the head of a request may take to arrive, in seconds.")
    unread_seconds: Seconds = Field(
        60,
        description="How long a client may stop reading a response before it is disconnected, in seconds (Linux only).",
    )

    database_url: SecretStr | None = Field(
        None, description="`postgresql://user:password@host:port/name`; without it, SQLite in the data folder."
    )
    database_connections: int = Field(10, ge=2, le=1000, description="Maximum connections to PostgreSQL per process.")
    broker_url: SecretStr | None = Field(
        None, description="`redis://:password@host:port/0`, or `rediss://` with TLS; without it, in-process."
    )
    object_store: SecretStr | None = Field(
        None,
        description="`s3+http(s)://key:secret@host:port/bucket`, or `file:///folder`; without it, in the data folder.",
    )
    object_store_upload_key: SecretStr | None = Field(
        None,
        description="`key:secret` that signs the URLs to which clients upload parts in an S3 store. It may only put "
        "objects below `uploads/`; `images migrate` creates it in MinIO.",
    )
    object_store_admin_key: SecretStr | None = Field(
        None,
        description="`key:secret` of a MinIO administrator, which only `images migrate` uses to create the bucket and "
        "the keys of the two settings above.",
    )
    object_store_public_url: str | None = Field(
        None, description="Public URL of the S3 store; without it, the address in IMAGES_OBJECT_STORE."
    )

    secret: SecretStr | None = Field(
        None, description="Secret that signs tokens and URLs; without it, one is generated in the data folder."
    )
    jwt_issuer: str | None = Field(None, description="OIDC issuer; with it, tokens are verified with its JWKS.")
    jwt_audience: str | None = Field(None, description="Audience that a token must have.")
    jwt_algorithm: Literal["RS256", "ES256", "PS256", "EdDSA"] = Field(
        "RS256", description="The only algorithm that is accepted from the OIDC issuer."
    )
    jwks_url: str | None = Field(
        None, description="URL of the JWKS; without it, the issuer's discovery document names it."
    )
    operator_claim: str | None = Field(
        None,
        pattern=r"^[^=\s]+(=\S+)?$",
        description="Claim that makes the holder of an issuer's token an operator: `operator`, which must be true, or "
        "`realm_access.roles=image-operator`, which must be or contain that text; without it, there are no operators.",
    )

    single_part_limit: Positive = Field(50 * GIB, description="Maximum size of an upload in a single part, in bytes.")
    upload_limit: Positive = Field(16 * TIB, description="Maximum size of an upload in several parts, in bytes.")
    virtual_size_limit: Positive = Field(16 * TIB, description="Maximum virtual size of an image, in bytes.")
    minimum_part_size: Positive = Field(
        16 * MIB, description="Minimum size of a part, in bytes; parts of large files are larger."
    )
    maximum_parts: int = Field(10_000, gt=0, le=10_000, description="Maximum parts of an upload.")
    reserve_bytes: int = Field(
        32 * MIB,
        ge=0,
        description="Disk space in the data folder that is reserved for deletions, in bytes; 0 reserves none.",
    )
    upload_idle_seconds: Seconds = Field(
        24 * 3600, description="How long an upload may be idle before it expires, in seconds."
    )
    signature_seconds: Seconds = Field(6 * 3600, description="Validity of a part's URL, in seconds.")
    download_seconds: Seconds = Field(15 * 60, description="Validity of a download URL, in seconds.")

    anonymous_requests_per_minute: Positive = Field(
        60, description="Maximum requests without a token per minute, client address and API process."
    )
    subscriptions_per_subject: Positive = Field(
        1_000, description="Maximum open subscriptions per subject and API process."
    )
    sockets_per_subject: Positive = Field(
        100, description="Maximum open WebSockets and event streams per subject and API process."
    )
    body_seconds: Seconds = Field(
        30, description="How long the body of a GraphQL request may take to arrive, in seconds."
    )

    feed_days: float = Field(7, gt=0, description="How long events are kept, in days.")
    feed_ring: Positive = Field(10_000, description="Number of newest events that an API process keeps in memory.")
    progress_seconds: Seconds = Field(0.5, description="Minimum seconds between two progress reports of an image.")
    poll_seconds: Seconds = Field(1, description="Seconds between two polls of a process that no message wakes.")

    workers: int = Field(2, gt=0, le=64, description="Jobs that a worker process runs at once.")
    lease_seconds: Seconds = Field(
        15, description="How long a worker may be silent before its job is reassigned, in seconds."
    )
    job_attempts: Positive = Field(5, description="Maximum attempts at a job before its image is set to ERROR.")
    turn_seconds: Seconds = Field(
        30,
        description="How long a conversion may run while other images wait before they go first, in seconds, plus one "
        "second for every 4 MiB of its file.",
    )
    require_confinement: bool = Field(
        False,
        description="Whether to refuse conversions where bubblewrap is missing or can't confine qemu; true in the "
        "compose file.",
    )
    conversions_per_project: Positive = Field(
        4, description="Maximum concurrent conversions per project, across all workers."
    )
    compression: Literal["none", "zstd"] = Field(
        "none", description="Compression of the clusters that a conversion in an S3 store rewrites."
    )
    split_bytes: Positive = Field(
        8 * GIB,
        description="Bytes of data above which the conversion of an image in an S3 store is split between several "
        "workers.",
    )
    orphan_seconds: Seconds = Field(
        12 * 3600, description="Age at which an object that no row references is deleted, in seconds."
    )

    servers: Literal["auto", "off"] = Field(
        "auto", description="Whether `images up` runs servers: `auto` runs them where QEMU and bubblewrap work."
    )
    accelerator: Literal["auto", "kvm", "tcg"] = Field(
        "auto",
        description="What runs the instructions of servers: `kvm`, `tcg` (software emulation, slow), or KVM where it "
        "works.",
    )
    host_folder: Path | None = Field(
        None, description="Folder with the servers and volumes of a host; without it, `host` in the data folder."
    )
    host_memory_gib: Positive | None = Field(
        None,
        description="Memory that the servers of a host may use together, in GiB; without it, half of the machine's.",
    )
    host_seconds: Seconds = Field(30, description="How long a host may be silent before it counts as gone, in seconds.")
    stop_seconds: Seconds = Field(
        60, description="How long a server may take to shut down before it is powered off, in seconds."
    )
    boot_check_seconds: Seconds = Field(
        300, description="How long an image may take to boot in a boot check (`verifyBoot`), in seconds."
    )
    snapshot_seconds: Seconds = Field(
        5,
        description="How long `createSnapshot` waits for the host to take the snapshot before it returns, in seconds.",
    )

    custom_images_limit: Positive = Field(50, description="Default limit on custom images per project.")
    image_storage_limit_gib: Positive = Field(500, description="Default limit on image storage per project, in GiB.")

    snapshots_per_volume_limit: Positive = Field(
        100, description="Default limit on the snapshots that are kept per volume."
    )
    servers_limit: Positive = Field(20, description="Default limit on servers per project.")
    volumes_limit: Positive = Field(100, description="Default limit on volumes per project.")
    volume_storage_limit_gib: Positive = Field(
        1000, description="Default limit on the size of all volumes per project, in GiB."
    )
    archive_rates: Annotated[tuple[ArchiveRate, ...], NoDecode] = Field(
        (),
        description="Prices of storing a GiB for a month, each valid from a day (UTC): "
        "`2026-01-01=0.0036,2026-07-01=0.0030`. Storage before the first day is free.",
    )
    archive_currency: str = Field("EUR", pattern="^[A-Z]{3}$", description="Currency of the prices (ISO 4217).")

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
                raise ValueError(f"{error}; list addresses and networks: 192.0.2.7,10.0.0.0/8") from None
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
            raise ValueError("the URL must have the form http(s)://host:port")
        return given.rstrip("/") if given else None

    @property
    def database_address(self) -> str:
        """The SQLAlchemy address of the database."""
        if self.database_url is None:
            return f"sqlite+aiosqlite:///{self.data.absolute() / 'images.db'}"
        return "postgresql+asyncpg:" + self.database_url.get_secret_value().partition(":")[2]

    @property
    def s3(self) -> S3Address | None:
        """The address of the bucket; None when objects are stored in a folder."""
        text = self.object_store.get_secret_value() if self.object_store else "file:///"
        return None if _folder_of(text) else S3Address.parse(text)

    @property
    def upload_key(self) -> S3Key | None:
        """The key that signs part URLs in an S3 store; None for the key in its address."""
        return _key_of(self.object_store_upload_key)

    @property
    def admin_key(self) -> S3Key | None:
        """The key that creates the bucket and the other keys; None when it is not set."""
        return _key_of(self.object_store_admin_key)

    @property
    def host_path(self) -> Path:
        """The folder of the servers and volumes of this machine."""
        return (self.host_folder or self.data / "host").absolute()

    @property
    def objects_path(self) -> Path:
        """The folder of the object store, if objects are stored in one."""
        folder = self.object_store and _folder_of(self.object_store.get_secret_value())
        return folder or self.data.absolute() / "store"

    @property
    def largest_part(self) -> int:
        """Maximum size of an upload in a single part, in bytes, by the settings and by the store."""
        amazon = self.s3 is not None and self.s3.is_amazon
        return min(self.single_part_limit, _AMAZON_LARGEST_PART) if amazon else self.single_part_limit

    @cached_property
    def secret_bytes(self) -> bytes:
        """The secret that signs. Without IMAGES_SECRET, a file in the data folder that only its owner can read."""
        if self.secret is not None:
            return self.secret.get_secret_value().encode()
        return _kept_secret(self.data / "secret")


def load_settings(**given: object) -> Settings:
    """The settings of this process; `given` overrides the environment. Raises SettingsError."""
    chosen = _from_old_names() | {name: value for name, value in given.items() if value is not None}
    try:
        settings = Settings(**chosen)  # type: ignore[arg-type]
    except ValidationError as invalid:
        problems = "; ".join(f"IMAGES_{_name(error['loc'])}: {error['msg']}" for error in invalid.errors())
        raise SettingsError(problems) from None
    if settings.secret is not None and len(settings.secret_bytes) < 32:
        raise SettingsError("IMAGES_SECRET: must have at least 32 bytes; generate one with `openssl rand -hex 32`")
    return settings


def _from_old_names() -> dict[str, object]:
    """Settings that the environment has under their old names alone. Warns about every old name."""
    found: dict[str, object] = {}
    for old, field in _OLD_NAMES.items():
        if old not in os.environ:
            continue
        new = f"IMAGES_{field.upper()}"
        log.warning("settings.renamed", old=old, new=new, hint=f"Set {new} instead of {old}.")
        if new not in os.environ:
            found[field] = os.environ[old]
    return found


def _name(location: tuple[int | str, ...]) -> str:
    return "_".join(str(part) for part in location).upper()


def _address(given: SecretStr | None, schemes: set[str], form: str, *, path: bool = False) -> SecretStr | None:
    """An address of one of these schemes. Raises ValueError, whose text omits the address: it contains a password."""
    if given is None or not given.get_secret_value():
        return None
    try:
        parts = urlsplit(given.get_secret_value())
        whole = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or (path and not parts.path.strip("/")):
        raise ValueError(f"the address must have the form {form}; write special characters in it as %XX")
    return given


def _read_rates(text: str) -> tuple[ArchiveRate, ...]:
    """Rates, sorted by the day from which they are valid. Raises ValueError."""
    rates: dict[date, Decimal] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = _RATE.fullmatch(part)
        if found is None:
            raise ValueError(f"{part!r} is not a rate; write 2026-01-01=0.0036, and separate several by commas")
        since = date.fromisoformat(found[1])
        if since in rates:
            raise ValueError(f"there are two rates for {since}")
        rates[since] = Decimal(found[2])
    return tuple(ArchiveRate(since, rates[since]) for since in sorted(rates))


def _key_of(given: SecretStr | None) -> S3Key | None:
    """The key in `key:secret`; None for an empty text. Raises ValueError."""
    text = given.get_secret_value() if given else ""
    return S3Key.parse(text) if text else None


def _folder_of(address: str) -> Path | None:
    """The folder that a file:// address names; None for any other address."""
    parts = urlsplit(address)
    return Path(unquote(parts.path)) if parts.scheme == "file" and parts.path.startswith("/") else None


def _kept_secret(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written under another name and then linked, so that two processes that start at once use the same secret.
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
