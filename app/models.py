"""The tables. The migrations in `app/database/migrations/` create them; a test compares the two.

Sizes are in bytes, instants in UTC. Ids have their type as a prefix; the API shows them as they are.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeAlias

from sqlalchemy import JSON, BigInteger, Connection, DateTime, Dialect, Index, Integer, Row, String, Text, event, text
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, Relationship, SQLModel
from ulid import ULID

from app.lifecycle import (
    Architecture,
    DiskFormat,
    EventKind,
    FailureCode,
    ImageStatus,
    ImageType,
    ImageVisibility,
    JobKind,
    JobState,
    ProjectRole,
    ServerFailureCode,
    ServerFirmware,
    ServerGoal,
    ServerStatus,
    ShareGrant,
    ShareState,
    SourceKind,
    UploadState,
)
from app.object_keys import blob_key_before_0006, new_blob_key, new_upload_key


def new_id(prefix: str) -> str:
    """A new id, `prefix_` and a ULID in lower case: later ones sort later."""
    return f"{prefix}_{str(ULID()).lower()}"


def now() -> datetime:
    """This instant, in UTC."""
    return datetime.now(UTC)


# Sorted by code points, as in SQLite: PostgreSQL would sort by the language of the database, which differs by machine.
TEXT = Text().with_variant(Text(collation="C"), "postgresql")


class Instant(TypeDecorator[datetime]):
    """A point in time in UTC. SQLite does not store the zone, so it is added when a value is read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Parses SQLite's text in one step: a page has a hundred instants."""
        return _read_instant if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


def _read_instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


class Word(TypeDecorator[StrEnum]):
    """A member of a vocabulary, stored as its text, so that a new member needs no migration."""

    impl = TEXT
    cache_ok = True

    def __init__(self, vocabulary: type[StrEnum]) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:
        return None if value is None else self.vocabulary(value).value

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Looks up the member in a dictionary, which is fast."""
        members: dict[str | None, StrEnum | None] = {None: None}
        members.update({member.value: member for member in self.vocabulary})
        return members.__getitem__


# One definition of each kind of column, so that it is the same in every dialect.
_ID = String(40).with_variant(String(40, collation="C"), "postgresql")
_NAME = TEXT


class Organization(SQLModel, table=True):
    id: str = Field(default_factory=lambda: new_id("org"), sa_type=_ID, primary_key=True)
    name: str = Field(sa_type=_NAME, unique=True)
    created_at: datetime = Field(default_factory=now, sa_type=Instant)


class OrganizationOwner(SQLModel, table=True):
    """A person, identified by their token's `sub`, who administers every project of an organization."""

    __tablename__ = "organization_owner"
    __table_args__ = (Index("organization_owner_subject", "subject", "organization_id"),)

    organization_id: str = Field(primary_key=True, sa_type=_ID, foreign_key="organization.id")
    subject: str = Field(sa_type=_NAME, primary_key=True)
    created_at: datetime = Field(default_factory=now, sa_type=Instant)


class TokenRevocation(SQLModel, table=True):
    """The subject's tokens that were issued before `not_before`, in microseconds since the epoch, are revoked.

    Every revocation has a larger `not_before` than all earlier ones, even when the clock goes back.
    """

    __tablename__ = "token_revocation"

    subject: str = Field(sa_type=_NAME, primary_key=True)
    not_before: int = Field(sa_type=BigInteger, unique=True)


class SignInCode(SQLModel, table=True):
    """The newest one-time code that signs a browser in as the subject; `digest` is its SHA-256 in hex."""

    __tablename__ = "sign_in_code"

    subject: str = Field(sa_type=_NAME, primary_key=True)
    digest: str = Field(sa_type=_NAME, unique=True)
    name: str | None = Field(default=None, sa_type=_NAME)
    operator: bool = False
    expires_at: datetime = Field(sa_type=Instant)


class Project(SQLModel, table=True):
    """A tenant. The limits are its quota; null means the deployment's default.

    `revision` increases with every change of its quota or members.
    """

    __table_args__ = (Index("project_name", "organization_id", "name", unique=True),)

    id: str = Field(default_factory=lambda: new_id("prj"), sa_type=_ID, primary_key=True)
    organization_id: str = Field(sa_type=_ID, foreign_key="organization.id")
    name: str = Field(sa_type=_NAME)
    created_at: datetime = Field(default_factory=now, sa_type=Instant)
    revision: int = 1
    custom_images_limit: int | None = None
    image_storage_limit: int | None = Field(default=None, sa_type=BigInteger)
    snapshots_per_volume_limit: int | None = None
    servers_limit: int | None = None
    volumes_limit: int | None = None
    volume_storage_limit: int | None = Field(default=None, sa_type=BigInteger)


class Membership(SQLModel, table=True):
    """The role of a person, identified by their token's `sub`, in a project."""

    __table_args__ = (Index("membership_subject", "subject", "project_id"),)

    project_id: str = Field(primary_key=True, sa_type=_ID, foreign_key="project.id")
    subject: str = Field(sa_type=_NAME, primary_key=True)
    role: ProjectRole = Field(sa_type=Word(ProjectRole))
    created_at: datetime = Field(default_factory=now, sa_type=Instant)


_UNCHECKED = text("readiness IS NULL")


class Blob(SQLModel, table=True):
    """A stored qcow2. `stored_size` counts allocated clusters; `file_size` is the size of a download.

    What jobs find out about the bytes holds for all images that have them: `sha256`, `readiness` (a BootReadiness), and
    `boot_check` (a BootCheck). Each is null until then.
    """

    __table_args__ = (Index("blob_unchecked", "id", sqlite_where=_UNCHECKED, postgresql_where=_UNCHECKED),)

    id: str = Field(default_factory=lambda: new_id("blb"), sa_type=_ID, primary_key=True)
    key: str = Field(sa_type=_NAME, unique=True)
    virtual_size: int = Field(sa_type=BigInteger)
    stored_size: int = Field(sa_type=BigInteger)
    file_size: int = Field(sa_type=BigInteger)
    sha256: str | None = Field(default=None, sa_type=_NAME)
    readiness: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    boot_check: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    created_at: datetime = Field(default_factory=now, sa_type=Instant)


# Key in the `info` of an index that only one dialect has: the name of that dialect.
DIALECT = "dialect"
_LIVE = text("deleted_at IS NULL")


def _live(name: str, *columns: str) -> Index:
    """An index over the rows that are not deleted."""
    return Index(name, *columns, sqlite_where=_LIVE, postgresql_where=_LIVE)


_PUBLIC = text("deleted_at IS NULL AND visibility = 'PUBLIC'")


def _naming(name: str, column: str) -> Index:
    """An index over the rows that are not deleted and that name something in `column`; it costs others nothing."""
    named = text(f"deleted_at IS NULL AND {column} IS NOT NULL")
    return Index(name, column, "id", sqlite_where=named, postgresql_where=named)


def _public(name: str, *columns: str) -> Index:
    """An index over the images that every project sees; it costs nothing for others."""
    return Index(name, "visibility", *columns, sqlite_where=_PUBLIC, postgresql_where=_PUBLIC)


def _words(name: str, column: str) -> Index:
    """A trigram index for substring search over live images (PostgreSQL only)."""
    return Index(
        name,
        column,
        postgresql_using="gin",
        postgresql_ops={column: "gin_trgm_ops"},
        postgresql_where=_LIVE,
        info={DIALECT: "postgresql"},
    ).ddl_if(dialect="postgresql")


class Image(SQLModel, table=True):
    """An image of the catalogue, or, with `deleted_at`, the tombstone of one.

    `name_key` is the name as it is compared and sorted; `size_key` is the virtual size, or -1 while unknown.
    `source_kind` says which columns describe the source: for a copy, those of its origin's upload are taken over, and
    `source_image_id` and `source_name` name the origin. File name and size are null where no file was sent. The name is
    stored as JSON, since PostgreSQL's text can't contain every character that a user can send. `reserved_size` is the
    quota that is reserved for the image until `stored_size` is known, in bytes. With `verify_boot`, a host boots the
    image once it is ACTIVE.

    An image that was captured names its volume, also after the volume was deleted, and the server that had the volume.
    `captured_at` is the moment whose bytes it has, null until its host has taken the point. `quiet` says whether the
    file systems of the guest were frozen at that moment, or no guest ran. An image that was promoted names its
    snapshot as `source_image_id`.
    """

    __table_args__ = (
        _live("image_by_created_at", "project_id", "created_at", "id"),
        _live("image_by_name", "project_id", "name_key", "id"),
        _live("image_by_size", "project_id", "size_key", "id"),
        _live("image_by_status", "project_id", "status", "id"),
        _live("image_by_type", "project_id", "type", "id"),
        _live("image_of_kind_by_created_at", "project_id", "status", "type", "created_at", "id"),
        _live("image_of_kind_by_name", "project_id", "status", "type", "name_key", "id"),
        _live("image_of_kind_by_size", "project_id", "status", "type", "size_key", "id"),
        _public("image_public_by_status", "status", "id"),
        _public("image_public_by_type", "type", "id"),
        _public("image_public_of_type_by_created_at", "type", "created_at", "id"),
        _public("image_public_of_type_by_name", "type", "name_key", "id"),
        _public("image_public_of_type_by_size", "type", "size_key", "id"),
        _public("image_public_of_kind_by_created_at", "status", "type", "created_at", "id"),
        _public("image_public_of_kind_by_name", "status", "type", "name_key", "id"),
        _public("image_public_of_kind_by_size", "status", "type", "size_key", "id"),
        _words("image_name_words", "name_key"),
        Index("image_blob", "blob_id"),
        _naming("image_source_image", "source_image_id"),
        _naming("image_volume", "volume_id"),
    )

    id: str = Field(default_factory=lambda: new_id("img"), sa_type=_ID, primary_key=True)
    project_id: str = Field(sa_type=_ID, foreign_key="project.id")
    revision: int = 1
    type: ImageType = Field(default=ImageType.CUSTOM, sa_type=Word(ImageType))
    status: ImageStatus = Field(default=ImageStatus.QUEUED, sa_type=Word(ImageStatus))
    visibility: ImageVisibility = Field(default=ImageVisibility.PROJECT, sa_type=Word(ImageVisibility))
    name: str = Field(sa_type=_NAME)
    name_key: str = Field(sa_type=_NAME)
    os_family: str | None = Field(default=None, sa_type=_NAME)
    os_version: str | None = Field(default=None, sa_type=_NAME)
    architecture: Architecture | None = Field(default=None, sa_type=Word(Architecture))
    labels: list[dict[str, str]] = Field(default_factory=list, sa_type=JSON)
    protected: bool = False
    created_by: str = Field(sa_type=_NAME)
    created_at: datetime = Field(default_factory=now, sa_type=Instant)
    updated_at: datetime = Field(default_factory=now, sa_type=Instant)
    deleted_at: datetime | None = Field(default=None, sa_type=Instant)
    size_key: int = Field(default=-1, sa_type=BigInteger)
    virtual_size: int | None = Field(default=None, sa_type=BigInteger)
    stored_size: int | None = Field(default=None, sa_type=BigInteger)
    reserved_size: int = Field(default=0, sa_type=BigInteger)
    sha256: str | None = Field(default=None, sa_type=_NAME)
    blob_id: str | None = Field(default=None, sa_type=_ID, foreign_key="blob.id")
    source_kind: SourceKind = Field(default=SourceKind.UPLOAD, sa_type=Word(SourceKind))
    source_image_id: str | None = Field(default=None, sa_type=_ID)
    # No foreign keys: a volume and a server name images, too.
    source_server_id: str | None = Field(default=None, sa_type=_ID)
    volume_id: str | None = Field(default=None, sa_type=_ID)
    source_name: str | None = Field(default=None, sa_type=_NAME)
    source_file_name: str | None = Field(default=None, sa_type=JSON(none_as_null=True))
    source_size: int | None = Field(default=None, sa_type=BigInteger)
    source_sha256: str | None = Field(default=None, sa_type=_NAME)
    source_declared_format: DiskFormat | None = Field(default=None, sa_type=Word(DiskFormat))
    source_detected_format: DiskFormat | None = Field(default=None, sa_type=Word(DiskFormat))
    captured_at: datetime | None = Field(default=None, sa_type=Instant)
    quiet: bool | None = None
    warnings: list[str] = Field(default_factory=list, sa_type=JSON)
    failure_code: FailureCode | None = Field(default=None, sa_type=Word(FailureCode))
    failure_message: str | None = Field(default=None, sa_type=_NAME)
    failure_hint: str | None = Field(default=None, sa_type=_NAME)
    failure_retriable: bool | None = None
    failed_at: datetime | None = Field(default=None, sa_type=Instant)
    last_launched_at: datetime | None = Field(default=None, sa_type=Instant)
    verify_boot: bool = False


# An image as a plain row of its table: read-only, and cheaper than an Image. Its attributes are the columns.
ImageRow: TypeAlias = Row[*tuple[Any, ...]]


class ImageShare(SQLModel, table=True):
    """A share of an image with another project of the organization, offered or answered."""

    __tablename__ = "image_share"
    __table_args__ = (
        Index("image_share_image", "image_id", "project_id", unique=True),
        Index("image_share_project", "project_id", "state", "image_id"),
    )

    id: str = Field(default_factory=lambda: new_id("shr"), sa_type=_ID, primary_key=True)
    image_id: str = Field(sa_type=_ID, foreign_key="image.id")
    project_id: str = Field(sa_type=_ID, foreign_key="project.id")
    grant: ShareGrant = Field(sa_type=Word(ShareGrant))
    state: ShareState = Field(sa_type=Word(ShareState))
    revision: int = 1
    shared_by: str = Field(sa_type=_NAME)
    created_at: datetime = Field(default_factory=now, sa_type=Instant)
    updated_at: datetime = Field(default_factory=now, sa_type=Instant)


_OPEN = text("until IS NULL")


class StorageEntry(SQLModel, table=True):
    """A line of the ledger: bytes that a project stored from `since` to `until`; null `until` means until now.

    Bytes that several images of a project have in common are in one line, that of the image that has had them for
    longest. The lines of deleted images are kept.
    """

    __tablename__ = "storage_entry"
    __table_args__ = (
        Index("storage_entry_project", "project_id", "image_id", "since"),
        Index("storage_entry_open", "blob_id", "project_id", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    )

    id: str = Field(default_factory=lambda: new_id("ent"), sa_type=_ID, primary_key=True)
    project_id: str = Field(sa_type=_ID, foreign_key="project.id")
    image_id: str = Field(sa_type=_ID, foreign_key="image.id")
    # No foreign key: the ledger outlives the blob.
    blob_id: str = Field(sa_type=_ID)
    stored_size: int = Field(sa_type=BigInteger)
    since: datetime = Field(default_factory=now, sa_type=Instant)
    until: datetime | None = Field(default=None, sa_type=Instant)


class Source(SQLModel, table=True):
    """Bytes in the object store that a conversion makes an image of. `size` is in bytes.

    `kind` is how they got into the store. No source has the kind IMAGE: a copy references the blob of its origin, so
    nothing is converted, and the row would name a result that never exists. `Image.source_kind` and the columns next to
    it describe the origin of every image.

    The user declares `declared_format` and `declared_sha256`, of the file. `kept` is true as long as the store may
    still have the bytes. `result_id` and `result_key` are the id and the key of the blob that they become: chosen at
    the start, so that every attempt to convert them finds what an earlier one finished. A source from before migration
    0006 has no `result_key`; see `key_of_result`.
    """

    __table_args__ = (Index("source_image", "image_id"),)

    id: str = Field(default_factory=lambda: new_id("src"), sa_type=_ID, primary_key=True)
    image_id: str = Field(sa_type=_ID, foreign_key="image.id")
    kind: SourceKind = Field(default=SourceKind.UPLOAD, sa_type=Word(SourceKind))
    key: str = Field(default_factory=new_upload_key, sa_type=_NAME, unique=True)
    size: int = Field(sa_type=BigInteger)
    declared_format: DiskFormat = Field(sa_type=Word(DiskFormat))
    declared_sha256: str | None = Field(default=None, sa_type=_NAME)
    kept: bool = True
    result_id: str = Field(default_factory=lambda: new_id("blb"), sa_type=_ID)
    result_key: str | None = Field(default_factory=new_blob_key, sa_type=_NAME)
    created_at: datetime = Field(default_factory=now, sa_type=Instant)

    @property
    def key_of_result(self) -> str:
        """The key of the blob that the source becomes."""
        return self.result_key or blob_key_before_0006(self.result_id)


class Upload(SQLModel, table=True):
    """How a client sends the bytes of a source: part by part, until it is completed or ends.

    Which parts have arrived is known to the object store alone; `reference` is its name for the open upload. `source`
    is always read together with the upload.
    """

    __table_args__ = (
        Index("upload_image", "image_id"),
        Index("upload_expiry", "state", "expires_at"),
    )

    id: str = Field(default_factory=lambda: new_id("upl"), sa_type=_ID, primary_key=True)
    image_id: str = Field(sa_type=_ID, foreign_key="image.id")
    source_id: str = Field(sa_type=_ID, foreign_key="source.id", unique=True)
    state: UploadState = Field(default=UploadState.OPEN, sa_type=Word(UploadState))
    reference: str = Field(default="", sa_type=_NAME)
    part_size: int = Field(sa_type=BigInteger)
    created_at: datetime = Field(default_factory=now, sa_type=Instant)
    expires_at: datetime = Field(sa_type=Instant)

    source: Source = Relationship(sa_relationship_kwargs={"lazy": "joined", "innerjoin": True})


class Host(SQLModel, table=True):
    """A machine that runs servers. `memory` is what servers may use, in bytes.

    `token` is what the host keeps to be recognized after a restart. `takes_launches` is false when it runs only the
    servers that it has. `seen_at` is when it last reported. `forgotten_at` is when an operator declared that it never
    returns.
    """

    id: str = Field(default_factory=lambda: new_id("hst"), sa_type=_ID, primary_key=True)
    token: str = Field(sa_type=_NAME, unique=True)
    name: str = Field(sa_type=_NAME)
    accelerator: str = Field(sa_type=_NAME)
    memory: int = Field(sa_type=BigInteger)
    vcpus: int
    takes_launches: bool = True
    seen_at: datetime = Field(default_factory=now, sa_type=Instant)
    forgotten_at: datetime | None = Field(default=None, sa_type=Instant)
    created_at: datetime = Field(default_factory=now, sa_type=Instant)


class Server(SQLModel, table=True):
    """A virtual machine, or, with `deleted_at`, the tombstone of one.

    `goal` is what its users want, `status` what its host last reported; the job `job_id` brings them together. That is
    the id of its newest job, which may be done and deleted. `memory` is in bytes. `instance_id` is what cloud-init
    knows the server by. `failure_code` and the columns after it are null unless the status is ERROR.
    """

    __table_args__ = (
        _live("server_project", "project_id", "id"),
        _live("server_image", "image_id", "id"),
        Index("server_host", "host_id", "status"),
    )

    id: str = Field(default_factory=lambda: new_id("srv"), sa_type=_ID, primary_key=True)
    project_id: str = Field(sa_type=_ID, foreign_key="project.id")
    revision: int = 1
    name: str = Field(sa_type=_NAME)
    status: ServerStatus = Field(default=ServerStatus.STARTING, sa_type=Word(ServerStatus))
    goal: ServerGoal = Field(default=ServerGoal.RUNNING, sa_type=Word(ServerGoal))
    image_id: str = Field(sa_type=_ID, foreign_key="image.id")
    vcpus: int
    memory: int = Field(sa_type=BigInteger)
    host_id: str = Field(sa_type=_ID, foreign_key="host.id")
    instance_id: str = Field(sa_type=_ID)
    ssh_keys: list[str] = Field(default_factory=list, sa_type=JSON)
    user_data: str | None = Field(default=None, sa_type=_NAME)
    firmware: ServerFirmware = Field(default=ServerFirmware.BIOS, sa_type=Word(ServerFirmware))
    job_id: str | None = Field(default=None, sa_type=_ID)
    failure_code: ServerFailureCode | None = Field(default=None, sa_type=Word(ServerFailureCode))
    failure_message: str | None = Field(default=None, sa_type=_NAME)
    failure_hint: str | None = Field(default=None, sa_type=_NAME)
    failed_at: datetime | None = Field(default=None, sa_type=Instant)
    created_by: str = Field(sa_type=_NAME)
    created_at: datetime = Field(default_factory=now, sa_type=Instant)
    updated_at: datetime = Field(default_factory=now, sa_type=Instant)
    deleted_at: datetime | None = Field(default=None, sa_type=Instant)


class ServerConsole(SQLModel, table=True):
    """The end of a server's serial console, as its host last read it for someone, at `read_at`.

    `text` is null until then, and if it could not be read. `job_id` is the job that reads it; null when that is done.
    `requested_at` is when the job was started. `truncated` says that the console had more before the text.
    """

    __tablename__ = "server_console"

    server_id: str = Field(sa_type=_ID, primary_key=True, foreign_key="server.id")
    job_id: str | None = Field(default=None, sa_type=_ID)
    requested_at: datetime = Field(default_factory=now, sa_type=Instant)
    text: str | None = Field(default=None, sa_type=_NAME)
    truncated: bool = False
    read_at: datetime | None = Field(default=None, sa_type=Instant)


class Volume(SQLModel, table=True):
    """A disk of servers, or, with `deleted_at`, the tombstone of one. `size` is in bytes.

    `base_id` is the blob that the disk starts from, which is kept as long as a volume names it; null for an empty disk.
    `host_id` is the host that has the disk, or that is to create it: null until the volume is first attached, and again
    when a deleted volume is gone from there. `position` orders the volumes of a server; it boots from position 0.
    """

    __table_args__ = (
        _live("volume_project", "project_id", "id"),
        Index("volume_server", "server_id", "position"),
        Index("volume_base", "base_id"),
    )

    id: str = Field(default_factory=lambda: new_id("vol"), sa_type=_ID, primary_key=True)
    project_id: str = Field(sa_type=_ID, foreign_key="project.id")
    revision: int = 1
    name: str = Field(sa_type=_NAME)
    size: int = Field(sa_type=BigInteger)
    bootable: bool = False
    image_id: str | None = Field(default=None, sa_type=_ID, foreign_key="image.id")
    base_id: str | None = Field(default=None, sa_type=_ID, foreign_key="blob.id")
    server_id: str | None = Field(default=None, sa_type=_ID, foreign_key="server.id")
    position: int = 0
    host_id: str | None = Field(default=None, sa_type=_ID, foreign_key="host.id")
    job_id: str | None = Field(default=None, sa_type=_ID)
    created_by: str = Field(sa_type=_NAME)
    created_at: datetime = Field(default_factory=now, sa_type=Instant)
    updated_at: datetime = Field(default_factory=now, sa_type=Instant)
    deleted_at: datetime | None = Field(default=None, sa_type=Instant)


class Capture(SQLModel, table=True):
    """A capture of a volume under way: the row is deleted when its image is ACTIVE, in ERROR or deleted.

    There is one per volume at a time. `base_id` is the blob that the volume started from, which is kept until the end.
    `result_id` and `result_key` are the id and the key of the blob that the volume becomes. The row is written with the
    image's row locked.
    """

    image_id: str = Field(primary_key=True, sa_type=_ID, foreign_key="image.id")
    volume_id: str = Field(sa_type=_ID, foreign_key="volume.id", unique=True)
    host_id: str = Field(sa_type=_ID, foreign_key="host.id")
    base_id: str | None = Field(default=None, sa_type=_ID, foreign_key="blob.id")
    result_id: str = Field(default_factory=lambda: new_id("blb"), sa_type=_ID)
    result_key: str = Field(default_factory=new_blob_key, sa_type=_NAME, unique=True)


class Job(SQLModel, table=True):
    """Work to do once. `token` increases with every claim, and a worker must name it with every write.

    `host_id` is the only host that may do it; null where any worker may.
    """

    __table_args__ = (
        Index("job_due", "state", "due_at"),
        Index("job_of_kind", "kind", "state", "due_at"),
        Index("job_image", "image_id"),
        Index("job_of_host", "host_id", "state", "due_at"),
    )

    id: str = Field(default_factory=lambda: new_id("job"), sa_type=_ID, primary_key=True)
    kind: JobKind = Field(sa_type=Word(JobKind))
    state: JobState = Field(default=JobState.WAITING, sa_type=Word(JobState))
    image_id: str | None = Field(default=None, sa_type=_ID, foreign_key="image.id")
    host_id: str | None = Field(default=None, sa_type=_ID)
    detail: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    attempts: int = 0
    token: int = 0
    due_at: datetime = Field(default_factory=now, sa_type=Instant)
    lease_until: datetime | None = Field(default=None, sa_type=Instant)
    created_at: datetime = Field(default_factory=now, sa_type=Instant)


class ConversionTurn(SQLModel, table=True):
    """When a worker last started a conversion of the project: projects take turns."""

    __tablename__ = "conversion_turn"

    project_id: str = Field(primary_key=True, sa_type=_ID, foreign_key="project.id")
    served_at: datetime = Field(default_factory=now, sa_type=Instant)


# SQLite generates consecutive row ids only for INTEGER; elsewhere a feed may exceed 32 bits.
_SEQUENCE = BigInteger().with_variant(Integer, "sqlite")


# The feed of what every project sees. The feed of a project has the project's id as its name.
PUBLIC_FEED = "public"


class Event(SQLModel, table=True):
    """A row of one feed. `seq` is assigned in the order of commits over all feeds and never used twice.

    `feed` is the id of a project, or PUBLIC_FEED. An event that several projects see has a row in the feed of each; one
    that every project sees has a single row in the public feed. `subject_id` is the image, server or volume that the
    event is about; empty for a change of members. `least_role` is the lowest role in a project that sees the event.
    `actor` is the `sub` of the token that caused it; null stands for the gateway itself.
    """

    __table_args__ = (
        Index("event_feed", "feed", "seq"),
        Index("event_subject", "subject_id", "feed", "seq"),
        {"sqlite_autoincrement": True},
    )

    seq: int | None = Field(default=None, sa_type=_SEQUENCE, primary_key=True)
    occurred_at: datetime = Field(default_factory=now, sa_type=Instant)
    kind: EventKind = Field(sa_type=Word(EventKind))
    feed: str = Field(sa_type=_ID)
    subject_id: str = Field(sa_type=_ID)
    least_role: ProjectRole = Field(default=ProjectRole.READER, sa_type=Word(ProjectRole))
    actor: str | None = Field(default=None, sa_type=_NAME)
    detail: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)


class FeedEpoch(SQLModel, table=True):
    """The only row of its table: key and epoch of the feed's cursors, in hexadecimal.

    `place` identifies where the tables were when the epoch began; null until an API process has started on them.
    """

    __tablename__ = "feed_epoch"

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    key: str = Field(sa_type=_NAME)
    epoch: str = Field(sa_type=_NAME)
    place: str | None = Field(default=None, sa_type=_NAME)
    renewed_at: datetime = Field(default_factory=now, sa_type=Instant)


class IdempotencyKey(SQLModel, table=True):
    """A creation that was requested with an idempotency key: repeating it returns the same object, by its id."""

    __tablename__ = "idempotency_key"

    project_id: str = Field(primary_key=True, sa_type=_ID, foreign_key="project.id")
    key: str = Field(sa_type=_NAME, primary_key=True)
    fingerprint: str = Field(sa_type=_NAME)
    created_id: str = Field(sa_type=_ID)
    created_at: datetime = Field(default_factory=now, sa_type=Instant)


# Named for the migrations, which compare the database with what SQLModel derives.
TABLES = SQLModel.metadata

_TRIGRAMS = text("CREATE EXTENSION IF NOT EXISTS pg_trgm")


@event.listens_for(TABLES, "before_create")
def _add_extensions(_tables: object, connection: Connection, **_others: object) -> None:
    """Add the extension that `_words` needs, for tests that create the tables from the models."""
    if connection.dialect.name == "postgresql":
        connection.execute(_TRIGRAMS)
