"""The inputs of launchServer and createVolume, and their validation."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.catalog import texts
from app.catalog.idempotency import Request, check_key
from app.errors import InvalidInput, TooLarge
from app.lifecycle import ServerFirmware
from app.settings import Settings
from app.sizes import GIB, KIB, counted, exactly

_MAXIMUM_VCPUS = 256
# In MiB: enough for a small kernel, and more than any machine has.
_MINIMUM_MEMORY, _MAXIMUM_MEMORY = 64, 64 << 20
_MAXIMUM_KEYS = 32
_MAXIMUM_KEY_LENGTH = 16 * KIB
_MAXIMUM_USER_DATA = 64 * KIB
# How many disks fit on the PCI bus of a virtual machine, with room for its other devices.
_MAXIMUM_DATA_VOLUMES = 16

# The types of OpenSSH's public keys (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
_KEY_TYPES = frozenset(
    {
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ecdsa-sha2-nistp256@openssh.com",
        "sk-ssh-ed25519@openssh.com",
        "ssh-ed25519",
        "ssh-rsa",
    }
)
_NOT_IN_HOST_NAMES = re.compile(r"[^a-z0-9]+")
_MAXIMUM_HOST_NAME = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class NewServer(Request):
    """A request for a server. `boot_disk_gib` is in GiB, `memory_mib` in MiB.

    Without `firmware`, it is the one that the image boots with. With `force`, the image may be one that will not boot.
    """

    image_id: str
    name: str
    boot_disk_gib: int | None = None
    vcpus: int = 1
    memory_mib: int = 1024
    ssh_keys: tuple[str, ...] = ()
    user_data: str | None = None
    data_volume_ids: tuple[str, ...] = ()
    firmware: ServerFirmware | None = None
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVolume(Request):
    """A request for an empty volume of `size_gib` GiB."""

    name: str
    size_gib: int


def checked_server(new: NewServer, settings: Settings) -> NewServer:
    """The request with its texts normalized. Raises InvalidInput, TooLarge."""
    check_key(new)
    _require_range("vcpus", new.vcpus, 1, _MAXIMUM_VCPUS)
    _require_range("memoryMib", new.memory_mib, _MINIMUM_MEMORY, _MAXIMUM_MEMORY)
    if new.boot_disk_gib is not None:
        _check_size(new.boot_disk_gib, "bootDiskGib", settings)
    _check_user_data(new.user_data)
    _check_volumes(new.data_volume_ids)
    return replace(new, name=texts.clean_name(new.name), ssh_keys=_clean_keys(new.ssh_keys))


def checked_volume(new: NewVolume, settings: Settings) -> NewVolume:
    """The request with its texts normalized. Raises InvalidInput, TooLarge."""
    check_key(new)
    _check_size(new.size_gib, "sizeGib", settings)
    return replace(new, name=texts.clean_name(new.name))


def host_name_of(name: str, server_id: str) -> str:
    """The host name of a server (RFC 1123): its name, with a hyphen for what a host name can't contain.

    It is derived from the server's id if nothing of the name is left.
    """
    cleaned = _NOT_IN_HOST_NAMES.sub("-", texts.name_key(name)).strip("-")[:_MAXIMUM_HOST_NAME].strip("-")
    return cleaned or server_id.replace("_", "-")


def _require_range(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidInput(f"{field} is {value:,}; it must be from {least:,} to {most:,}.", field=(field,))


def _check_size(gib: int, field: str, settings: Settings) -> None:
    if gib < 1:
        raise InvalidInput(f"{field} is {gib:,}; it must be at least 1.", field=(field,))
    if gib * GIB > settings.virtual_size_limit:
        raise TooLarge(
            f"A disk may have at most {exactly(settings.virtual_size_limit)}; {exactly(gib * GIB)} requested.",
            field=(field,),
            hint="Request a smaller disk, or several.",
        )


def _clean_keys(keys: Sequence[str]) -> tuple[str, ...]:
    if len(keys) > _MAXIMUM_KEYS:
        raise InvalidInput(
            f"A server can have at most {_MAXIMUM_KEYS} SSH keys; these are {len(keys)}.", field=("sshKeys",)
        )
    return tuple(_clean_key(key, ("sshKeys", str(at))) for at, key in enumerate(keys))


def _clean_key(key: str, field: Sequence[str]) -> str:
    cleaned = key.strip()
    if "PRIVATE KEY-----" in cleaned:
        raise InvalidInput(
            "This is a private key.", field=field, hint="Send the public key: the file whose name ends in `.pub`."
        )
    if len(cleaned) > _MAXIMUM_KEY_LENGTH or not texts.is_text(cleaned) or not _is_key(cleaned):
        raise InvalidInput(
            "This is not a public SSH key on one line, such as `ssh-ed25519 AAAA… comment`.",
            field=field,
            hint="Send the content of the file whose name ends in `.pub`.",
        )
    return cleaned


def _is_key(line: str) -> bool:
    """Whether a line is a public key: a type, and data in base64 that begins with the same type (RFC 4253, 6.6)."""
    kind, _, rest = line.partition(" ")
    encoded = rest.split(maxsplit=1)
    if kind not in _KEY_TYPES or not encoded:
        return False
    try:
        data = base64.b64decode(encoded[0], validate=True)
    except (binascii.Error, ValueError):
        return False
    length = int.from_bytes(data[:4], "big")
    return len(data) > 4 + length and data[4 : 4 + length] == kind.encode()


def _check_user_data(user_data: str | None) -> None:
    if user_data is None:
        return
    if "\0" in user_data or any("\ud800" <= character <= "\udfff" for character in user_data):
        raise InvalidInput("The user data is not text.", field=("userData",), hint="Encode binary data in base64.")
    size = len(user_data.encode())
    if size > _MAXIMUM_USER_DATA:
        raise TooLarge(
            f"The user data has {counted(size, 'byte')}; at most {exactly(_MAXIMUM_USER_DATA)} are allowed.",
            field=("userData",),
            hint="Use `#include` with a URL, or download the rest when the server boots.",
        )


def _check_volumes(ids: Sequence[str]) -> None:
    if len(ids) > _MAXIMUM_DATA_VOLUMES:
        raise InvalidInput(
            f"A server can have at most {_MAXIMUM_DATA_VOLUMES} data volumes; these are {len(ids)}.",
            field=("dataVolumeIds",),
        )
    if len(set(ids)) < len(ids):
        raise InvalidInput("A volume is listed twice.", field=("dataVolumeIds",))
