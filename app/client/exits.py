"""The exit codes of the users' commands."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit code of a command, which a shell finds in `$?`."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_ALLOWED = 4
    NO_ANSWER = 5
    NOT_FOUND = 6
    DEFECT = 70
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141


MEANINGS = {
    ExitCode.DONE: "done; what was waited for has happened, such as an image that is ACTIVE",
    ExitCode.FAILED: "the image or server ended in ERROR",
    ExitCode.USAGE: "the command line, the configuration or a local file is at fault",
    ExitCode.REFUSED: "the request was refused, for example because several objects have the name",
    ExitCode.NOT_ALLOWED: "not signed in, or not allowed to do this",
    ExitCode.NO_ANSWER: "the gateway can't be reached, or fails",
    ExitCode.NOT_FOUND: "there is no such object, or you may not see it",
    ExitCode.DEFECT: "a bug in this command; please report it",
    ExitCode.INTERRUPTED: "interrupted, by Ctrl-C or by answering no",
    ExitCode.OUTPUT_CLOSED: "the program that read the output has ended",
}


def exit_codes_text() -> str:
    """The table of exit codes that each command's help ends with."""
    return "\n".join(["Exit codes:", *(f"{code.value:>5}  {meaning}" for code, meaning in MEANINGS.items())])
