"""Rephrases what the gateway advises: in terms of commands and options, where it names mutations and fields."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from app.client.errors import ClientError

# The commands for mutations that hints name.
_COMMANDS = {
    "createSnapshot": "images snapshot",
    "createVolume": "images create-volume",
    "deleteImage": "images delete",
    "deleteServer": "images delete-server",
    "deleteVolume": "images delete-volume",
    "launchServer": "images launch",
    "startServer": "images start",
    "stopServer": "images stop",
}
_MUTATIONS = re.compile(rf"`?\b({'|'.join(_COMMANDS)})\b`?")


@contextmanager
def advising(options: Mapping[str, str], advice: Mapping[str, str]) -> Iterator[None]:
    """Rephrase the errors of the block.

    `options` are the options for fields of the input. `advice` are hints that replace the gateway's, by the code of the
    error, or by its code and field, such as "NO_HYPERVISOR memoryMib".
    """
    try:
        yield
    except ClientError as error:
        field = str((error.details.get("field") or [""])[0])
        hint = advice.get(f"{error.code} {field}") or advice.get(error.code) or error.hint
        message = error.message
        if option := options.get(field):
            message = re.sub(rf"\b{field}\b", option, message)
            hint = re.sub(rf"\b{field}\b", option, hint) if hint else None
        raise type(error)(message, hint=_with_commands(hint), code=error.code, **error.details) from None


def _with_commands(hint: str | None) -> str | None:
    if not hint:
        return None
    return _MUTATIONS.sub(lambda found: f"`{_COMMANDS[found[1]]}`", hint).replace("`force: true`", "`--force`")
