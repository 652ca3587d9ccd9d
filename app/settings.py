"""The configuration: environment variables with the prefix IMAGES_, read once at start-up."""

import os
import secrets
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import SettingsError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


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

    secret: SecretStr | None = Field(
        None, description="Signs tokens and addresses. Made and kept in the data folder when not given."
    )
    jwt_issuer: str | None = Field(None, description="OIDC issuer; with it, tokens are checked by its JWKS.")
    jwt_audience: str | None = Field(None, description="Audience that a token has to name.")
    jwt_algorithm: Literal["RS256", "ES256", "PS256", "EdDSA"] = Field(
        "RS256", description="The one algorithm that is accepted from the OIDC issuer."
    )
    jwks_url: str | None = Field(None, description="Where the keys are; without it, the issuer is asked.")

    single_part_limit: Positive = Field(50 * GIB, description="Largest upload in one part.")
    upload_limit: Positive = Field(16 * TIB, description="Largest upload in parts.")
    virtual_size_limit: Positive = Field(16 * TIB, description="Largest disk that an image may describe.")
    minimum_part_size: Positive = Field(16 * MIB, description="Least size of a part; larger for large files.")
    maximum_parts: int = Field(10_000, gt=0, le=10_000, description="Most parts of one upload.")
    upload_idle_seconds: Seconds = Field(24 * 3600, description="An upload that gets no byte expires.")
    signature_seconds: Seconds = Field(6 * 3600, description="How long a signed address works.")

    feed_days: float = Field(7, gt=0, description="How long the feed is kept, in days.")
    feed_ring: Positive = Field(10_000, description="Newest events that an API process keeps in memory.")
    progress_seconds: Seconds = Field(0.5, description="Least time between two reports of an image.")
    poll_seconds: Seconds = Field(1, description="How often a process looks by itself, if no one wakes it.")

    workers: int = Field(2, gt=0, le=64, description="Jobs that one worker process runs at once.")
    lease_seconds: Seconds = Field(15, description="A job whose worker is silent for so long is given on.")
    job_attempts: Positive = Field(5, description="How often a job is begun before its image is given up.")
    orphan_seconds: Seconds = Field(
        12 * 3600, description="An object that no row names is removed when it is this old."
    )

    custom_images_limit: Positive = Field(50, description="Custom images of a project without a limit.")
    image_storage_limit_gib: Positive = Field(500, description="Image storage of a project without a limit, in GiB.")

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _separated(cls, given: object) -> object:
        return tuple(part.strip() for part in given.split(",") if part.strip()) if isinstance(given, str) else given

    @property
    def database_url(self) -> str:
        """The SQLAlchemy address of the database."""
        return f"sqlite+aiosqlite:///{self.data.absolute() / 'images.db'}"

    @property
    def objects_path(self) -> Path:
        """The folder of the object store."""
        return self.data.absolute() / "store"

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
