"""Reads a serial console: makes printable text of it, and finds signs that the guest has booted. It is not trusted.

Sources: ECMA-48 for escape sequences; agetty(8) for the prompt; cloud-init's `final_message`, and the last line that
cloudbase-init logs to its serial port.
"""

import re
import unicodedata

from app.lifecycle import BootSign

_MOST_CHARACTERS = 4000
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # strings, such as titles of windows
    r"|\x1b[ -/]*[0-~]?"  # all others
)
_NEW_LINES = re.compile(r"\r+\n|\r")
_LOGIN_PROMPT = re.compile(r"^[^\n]{0,200}\blogin: *$", re.MULTILINE)
_CLOUD_INIT_ENDED = re.compile(
    r"\bcloud-init v\. *\S{1,40} finished at |\breached target [^\n]{0,40}cloud-init\.target\b"
    r"|\bcloudbaseinit\.init [^\n]{0,80}\bplugins execution done\b",
    re.IGNORECASE,
)


def plain(console: bytes) -> str:
    """The text that a console shows, without escape sequences and invisible characters except new lines and tabs."""
    text = _NEW_LINES.sub("\n", _ESCAPES.sub("", console.decode("utf-8", "replace")))
    return "".join(character for character in text if character in "\n\t" or _is_visible(character))


def sign_in(text: str) -> BootSign | None:
    """What shows in the text of a console that the guest has booted; None if nothing does."""
    if _LOGIN_PROMPT.search(text):
        return BootSign.LOGIN_PROMPT
    if _CLOUD_INIT_ENDED.search(text):
        return BootSign.CLOUD_INIT
    return None


def excerpt(text: str) -> str:
    """The end of a text that is short enough to be stored: whole lines, if possible."""
    end = text.strip()[-_MOST_CHARACTERS:]
    if len(end) < _MOST_CHARACTERS:
        return end
    first, _, rest = end.partition("\n")
    return rest or first


def _is_visible(character: str) -> bool:
    # No control, format, surrogate, private or unassigned characters.
    return not unicodedata.category(character).startswith("C")
