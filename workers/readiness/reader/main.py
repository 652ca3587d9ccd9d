"""The reader's program: its standard input is a connected NBD socket, its standard output gets the report as JSON."""

import json
import os
import socket
import sys

from workers.qemu.nbd_client import NbdClient
from workers.readiness.reader.disk import Disk
from workers.readiness.reader.exits import DISK_LOST
from workers.readiness.reader.survey import survey


def main() -> int:
    """Survey the disk; return the exit code."""
    disk = Disk(NbdClient(socket.socket(fileno=os.dup(0))))
    report = survey(disk)
    if disk.lost:
        return DISK_LOST
    sys.stdout.write(json.dumps(report.to_json()))
    return 0
