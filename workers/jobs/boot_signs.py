"""Finds signs in the text of a serial console that the guest has booted. It is not trusted.

Sources: agetty(8) for the prompt; cloud-init's `final_message`, and the last line that cloudbase-init logs to its
serial port.
"""

import re

from app.lifecycle import BootSign

_MOST_CHARACTERS = 4000
_LOGIN_PROMPT = re.compile(r"^[^\n]{0,200}\blogin: *$", re.MULTILINE)
_CLOUD_INIT_ENDED = re.compile(
    r"\bcloud-init v\. *\S{1,40} finished at |\breached target [^\n]{0,40}cloud-init\.target\b"
    r"|\bcloudbaseinit\.init [^\n]{0,80}\bplugins execution done\b",
    re.IGNORECASE,
)


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
