"""Builds the parts of a command that confine a process: an identity without rights, and namespaces of its own."""

import os
from collections.abc import Sequence
from pathlib import Path

from workers.qemu.programs import SYSTEM, resolved

WRAPPERS = ("setpriv", "prlimit")


def identity(user: int | None, groups: Sequence[int] = ()) -> list[str]:
    """setpriv and its arguments: the process gains no privileges and, if we are root, becomes `user`, in `groups`."""
    command = [resolved("setpriv"), "--no-new-privs"]
    if user is not None:
        command += [f"--reuid={user}", f"--regid={user}"]
        command += [f"--groups={','.join(map(str, groups))}"] if groups else ["--clear-groups"]
        command += ["--inh-caps=-all", "--bounding-set=-all"]
    return command


def namespaces(bubblewrap: str, user: int | None, shown: Sequence[str] = ()) -> list[str]:
    """bubblewrap and its arguments: no network, no other processes, and of files only the system's and `shown`.

    All of them are read-only. `user` is the user that `identity` changes to. The caller adds the folders of the job.
    """
    command = [bubblewrap, "--unshare-ipc", "--unshare-net", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    if user is None:
        command += ["--unshare-user"]
    else:
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            command += ["--cap-add", capability]
    command += ["--ro-bind", "/usr", "/usr"]
    for folder in SYSTEM[1:]:
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            command += ["--ro-bind", folder, folder]
    # The other user has to traverse the parent folders, which bubblewrap would create for itself only.
    for folder in {str(above): None for path in shown for above in reversed(Path(path).parents[:-1])}:
        command += ["--perms", "0755", "--dir", folder]
    for path in shown:
        command += ["--ro-bind", path, path]
    return [*command, "--perms", "0755", "--dir", "/dev", "--dev-bind", "/dev/null", "/dev/null"]
