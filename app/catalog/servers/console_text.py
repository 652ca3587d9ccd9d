"""What a guest wrote to its console as text that neither JSON, a terminal nor a database has to fear.

A guest may write anything. Removed are escape sequences (ECMA-48, which can move the cursor, set titles and, on some
terminals, answer as if the user had typed), and invisible characters, such as marks that change the writing direction.
"""

import re
import unicodedata

# Each alternative is read in one pass, without going back, since a hostile guest chooses the text.
_SEQUENCES = re.compile(
    # A control sequence: parameters, intermediate bytes and a final byte (ECMA-48, section 5.4).
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    # A control string, such as a window title: up to its terminator, and at most to the end of the line (5.6).
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\r\n]*(?:\x07|\x1b\\|\x9c)?"
    # Any other escape sequence (5.3, and ISO 2022).
    r"|\x1b[ -/]*[0-~]?"
)
_LINE_ENDS = re.compile("\r*\n|\r+|[\x85\u2028\u2029]")


def clean(written: bytes) -> str:
    """The text that a guest wrote, harmless, with line feeds between its lines.

    Bytes that are not UTF-8 become U+FFFD, except those of a character whose beginning is missing at the start.
    """
    start = next((at for at, byte in enumerate(written[:4]) if byte & 0xC0 != 0x80), 0)
    text = _LINE_ENDS.sub("\n", _SEQUENCES.sub("", written[start:].decode(errors="replace")))
    # Of a text, each character is looked at once, however often it occurs.
    return text.translate(dict.fromkeys(ord(character) for character in set(text) if not _is_visible(character)))


def tail(text: str, most: int) -> tuple[str, bool]:
    """The end of a text, at most `most` bytes in UTF-8, and whether something before it is missing."""
    encoded = text.encode()
    if len(encoded) <= most:
        return text, False
    return encoded[-most:].decode(errors="ignore"), True


def _is_visible(character: str) -> bool:
    """Whether a character is a line break, a tab, or neither a control, format, private nor unassigned character."""
    return character in "\n\t" or not unicodedata.category(character).startswith("C")
