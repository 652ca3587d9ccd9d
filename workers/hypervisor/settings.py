"""The settings of a host that runs servers."""

from dataclasses import dataclass, field
from pathlib import Path

from app.sizes import MIB
from workers.hypervisor.accelerators import Accelerator
from workers.limits import Limits


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Where and how a host runs servers. Times are seconds, sizes bytes.

    `folder` keeps volumes and servers; `accelerator` None means KVM where it works, otherwise emulation. A program that
    does not answer within `answer_seconds` counts as hung. The newest `console_bytes` of a console are kept.
    """

    folder: Path
    limits: Limits = field(default_factory=Limits)
    accelerator: Accelerator | None = None
    qemu_system: str = "qemu-system-x86_64"
    uefi_code: Path = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
    uefi_variables: Path = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
    answer_seconds: float = 30.0
    console_bytes: int = 1 * MIB
