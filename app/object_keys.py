"""Keys of objects in the store.

A key appears in every signed URL, so it must reveal nothing about the key of any other object: names are 128 random
bits, unrelated to ids, to the time and to each other. Before migration 0006, keys were derived from ids; those objects
keep their keys.
"""

import re
import secrets

_NAME_BYTES = 16
_NAME = "[0-9a-f]{32}"
_ULID = "[0-9a-z]{26}"
_OURS = re.compile(rf"uploads/(?:{_NAME}|upl_{_ULID})\Z|blobs/(?:{_NAME}|blb_{_ULID})\.qcow2")

# What every store accepts as a key: names of `a-z 0-9 _ . -`, separated by `/`.
_KEY = re.compile(r"(?=.{1,200}\Z)[a-z0-9_][a-z0-9_.-]*(/[a-z0-9_][a-z0-9_.-]*)*")

UPLOADS = "uploads/"
BLOBS = "blobs/"


def new_upload_key() -> str:
    """A key for the bytes that a client sends."""
    return f"{UPLOADS}{secrets.token_hex(_NAME_BYTES)}"


def new_blob_key() -> str:
    """A key for the qcow2 that a conversion writes."""
    return f"{BLOBS}{secrets.token_hex(_NAME_BYTES)}.qcow2"


def blob_key_before_0006(blob_id: str) -> str:
    """The key of a blob whose upload was created before keys were random (migration 0006)."""
    return f"{BLOBS}{blob_id}.qcow2"


def id_of_blob_before_0006(key: str) -> str | None:
    """The id of the blob that has such a key; None for any other key."""
    blob_id = key.removeprefix(BLOBS).removesuffix(".qcow2")
    return blob_id if key == blob_key_before_0006(blob_id) and blob_id.startswith("blb_") else None


def is_ours(key: str) -> bool:
    """Whether the gateway generates such keys: of an upload, of a blob, or of an object stored next to a blob."""
    return _OURS.match(key) is not None


def is_key(text: str) -> bool:
    """Whether a store accepts a text as a key."""
    return _KEY.fullmatch(text) is not None


def checked_key(text: str) -> str:
    """The text, if it is a key. Raises ValueError for any other text."""
    if not is_key(text):
        raise ValueError(f"not a key: {text!r}")
    return text
