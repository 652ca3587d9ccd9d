"""Options that several commands have, and the words that they take."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.client.api.connection import Connection, find_connection

Project = Annotated[
    str | None,
    typer.Option(
        "--project", "-p", envvar="IMAGES_PROJECT", help="Project, by name or id; not needed if you have one."
    ),
]
ConnectionFile = Annotated[
    Path | None,
    typer.Option(
        "--connection",
        help="The connection.json of a gateway, instead of IMAGES_URL and IMAGES_TOKEN.  [env var: IMAGES_CONNECTION]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, errors too; no bars and no notes.")]
PatienceSeconds = Annotated[
    float, typer.Option("--patience", min=0, metavar="SECONDS", help="How long to put up with a gateway that is away.")
]


class Format(StrEnum):
    QCOW2 = "qcow2"
    RAW = "raw"
    VMDK = "vmdk"
    VHD = "vhd"
    VHDX = "vhdx"


class Architecture(StrEnum):
    X86_64 = "x86_64"
    AARCH64 = "aarch64"


class Status(StrEnum):
    QUEUED = "queued"
    SAVING = "saving"
    ACTIVE = "active"
    ERROR = "error"


class Type(StrEnum):
    STOCK = "stock"
    CUSTOM = "custom"
    SNAPSHOT = "snapshot"


class Role(StrEnum):
    READER = "reader"
    MEMBER = "member"
    ADMIN = "admin"


class Order(StrEnum):
    NAME = "name"
    CREATED = "created"
    SIZE = "size"
    STATUS = "status"
    TYPE = "type"


def connection_of(file: Path | None, project: str | None = None) -> Connection:
    """The connection by the command's options and the environment. Raises Misconfigured."""
    return find_connection(os.environ, file, project)
