"""Decides whether guests run on KVM or under software emulation."""

import fcntl
import os
import re
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

KVM_DEVICE = Path("/dev/kvm")
_CPUS = Path("/proc/cpuinfo")
# _IO(KVMIO, 0x01), from linux/kvm.h.
_KVM_CREATE_VM = 0xAE01


class Accelerator(StrEnum):
    """What executes a guest's instructions, by QEMU's name for it."""

    KVM = "kvm"
    TCG = "tcg"


def detect(device: Path = KVM_DEVICE, cpus: Path = _CPUS) -> Accelerator:
    """KVM where a guest can really run on it, otherwise TCG.

    A machine may have /dev/kvm, and even create virtual machines with it, although its processor can't run them: so
    the processor must also say that it can.
    """
    with suppress(OSError):
        if re.search(r"^flags\s*:.*\b(vmx|svm)\b", cpus.read_text(), re.MULTILINE) and _creates_machines(device):
            return Accelerator.KVM
    return Accelerator.TCG


def _creates_machines(device: Path) -> bool:
    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.close(fcntl.ioctl(fd, _KVM_CREATE_VM, 0))
    finally:
        os.close(fd)
    return True
