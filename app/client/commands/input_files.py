"""Reads the small files that options name."""

from collections.abc import Iterable
from pathlib import Path

from app.client.errors import UnusableFile
from app.sizes import KIB, MIB, exactly

# More than the gateway accepts, so that its limits decide.
_MAXIMUM = MIB
_MAXIMUM_KEYS_FILE = 64 * KIB
# How the types of OpenSSH's public keys begin (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
_KEY_TYPES = ("ssh-", "ecdsa-", "sk-")


def text_of(path: Path, most: int = _MAXIMUM) -> str:
    """The text of a file of at most `most` bytes. Raises UnusableFile."""
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise UnusableFile(f"{path} can't be read: {error.strerror}.") from error
    if len(content) > most:
        raise UnusableFile(f"{path} is too large: at most {exactly(most)} are allowed.")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UnusableFile(f"{path} is not text in UTF-8.") from None


def public_keys(paths: Iterable[Path]) -> list[str]:
    """The public SSH keys in files, one per line. Raises UnusableFile.

    Nothing else leaves this machine, above all no private key.
    """
    return [key for path in paths for key in _keys_in(path)]


def _keys_in(path: Path) -> list[str]:
    lines = [line.strip() for line in text_of(path, _MAXIMUM_KEYS_FILE).splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or not all(key.startswith(_KEY_TYPES) for key in keys):
        raise UnusableFile(
            f"{path} does not contain public SSH keys.",
            hint="Use the file whose name ends in .pub, such as id_ed25519.pub.",
        )
    return keys
