"""What each finding of the boot readiness check means, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum

from app.boot_readiness.report import BootReadiness, Note, Support


class Part(StrEnum):
    """The parts of an image that a finding is about: the fields of BootReadiness, in upper case."""

    VIRTIO_BLK = "VIRTIO_BLK"
    VIRTIO_NET = "VIRTIO_NET"
    VIRTIO_SCSI = "VIRTIO_SCSI"
    CLOUD_INIT = "CLOUD_INIT"


@dataclass(frozen=True, slots=True)
class Finding:
    """A part that is not PRESENT: what that means, and one instruction."""

    part: Part
    state: Support
    message: str
    hint: str


def findings(report: BootReadiness) -> tuple[Finding, ...]:
    """A finding for each part of the report that is not PRESENT, in the order of Part."""
    states = {part: Support(getattr(report, part.lower())) for part in Part}
    return tuple(
        Finding(part, state, _message(part, state, windows=report.os_family == "windows"), _hint(part, state, report))
        for part, state in states.items()
        if state is not Support.PRESENT
    )


# ---------------------------------------------------------------- families of systems


class _Family(StrEnum):
    """Systems that are changed by the same commands."""

    DEBIAN = "DEBIAN"
    DRACUT = "DRACUT"
    SUSE = "SUSE"
    ALPINE = "ALPINE"
    ARCH = "ARCH"
    WINDOWS = "WINDOWS"
    OTHER = "OTHER"


_FAMILIES = {
    **dict.fromkeys(("debian", "ubuntu", "linuxmint", "raspbian", "kali", "devuan"), _Family.DEBIAN),
    **dict.fromkeys(("fedora", "rhel", "centos", "rocky", "almalinux", "ol", "amzn"), _Family.DRACUT),
    **dict.fromkeys(("opensuse-leap", "opensuse-tumbleweed", "sles", "sled"), _Family.SUSE),
    "alpine": _Family.ALPINE,
    "arch": _Family.ARCH,
    "windows": _Family.WINDOWS,
}


def _family(report: BootReadiness) -> _Family:
    return _FAMILIES.get(report.os_family or "", _Family.OTHER)


# ---------------------------------------------------------------- messages

_DISK_MESSAGES = {
    Support.MISSING: "The newest kernel on the image has no {driver} driver, so it can't read a {driver} disk.",
    Support.NOT_IN_INITRAMFS: "The {driver} driver is installed but not in the initramfs, so the kernel can't read the "
    "disk that it is on.",
    Support.DISABLED: "The {driver} driver is disabled.",
}
_WINDOWS_DISK_MESSAGES = {
    Support.MISSING: "Windows has no {driver} driver ({service}), so it can't read a {driver} disk.",
    Support.DISABLED: "The {driver} driver ({service}) does not start with Windows, so it can't read a {driver} disk.",
}
_NETWORK_MESSAGES = {
    Support.MISSING: "The system has no virtio_net driver, so its servers have no network.",
    Support.DISABLED: "The virtio_net driver is disabled, so its servers have no network.",
}
_CLOUD_MESSAGES = {
    Support.MISSING: "{program} is not installed, so a server ignores its name, SSH keys and user data.",
    Support.DISABLED: "{program} is disabled, so a server ignores its name, SSH keys and user data.",
}
_UNKNOWN_MESSAGE = "It could not be determined whether the system has {part}."
_SERVICES = {Part.VIRTIO_BLK: "viostor", Part.VIRTIO_SCSI: "vioscsi", Part.VIRTIO_NET: "netkvm"}


def _message(part: Part, state: Support, *, windows: bool) -> str:
    program = "cloudbase-init" if windows else "cloud-init"
    if part is Part.CLOUD_INIT:
        messages, name = _CLOUD_MESSAGES, program
    elif part is Part.VIRTIO_NET:
        messages, name = _NETWORK_MESSAGES, "a virtio_net driver"
    else:
        messages, name = (_WINDOWS_DISK_MESSAGES if windows else _DISK_MESSAGES), f"a {part.lower()} driver"
    message = messages.get(state, _UNKNOWN_MESSAGE)
    return message.format(driver=part.lower(), service=_SERVICES.get(part), program=program, part=name)


# ---------------------------------------------------------------- hints

_AGAIN = "Then shut it down, export its disk and upload it again."
_IN_SYSTEM = "In the machine that the image was made from, run"
_DRACUT = (
    "`echo 'add_drivers+=\" virtio_pci virtio_blk virtio_scsi sd_mod \"' > /etc/dracut.conf.d/virtio.conf && dracut "
    "--force --regenerate-all`"
)
_ADD_TO_INITRAMFS = {
    _Family.DEBIAN: "`printf '%s\\n' virtio_pci virtio_blk virtio_scsi sd_mod >> /etc/initramfs-tools/modules && "
    "update-initramfs -u -k all`",
    _Family.DRACUT: _DRACUT,
    _Family.SUSE: _DRACUT,
    _Family.ALPINE: "`sed -i 's/^features=\"/&virtio scsi /' /etc/mkinitfs/mkinitfs.conf && mkinitfs`",
    _Family.ARCH: "`sed -i 's/^MODULES=(/&virtio_pci virtio_blk virtio_scsi sd_mod /' /etc/mkinitcpio.conf && "
    "mkinitcpio -P`",
}
_OTHER_INITRAMFS = (
    "In the machine that the image was made from, add virtio_pci, virtio_blk, virtio_scsi and sd_mod to the initramfs "
    "of its newest kernel."
)
_INSTALL_KERNEL = {
    "debian": "`apt-get install linux-image-$(dpkg --print-architecture)`",
    "ubuntu": "`apt-get install linux-generic`",
    "amzn": "`dnf install kernel`",
    "fedora": "`dnf install kernel-core kernel-modules`",
    "alpine": "`apk add linux-virt`",
    "arch": "`pacman -S linux`",
    **dict.fromkeys(("rhel", "centos", "rocky", "almalinux"), "`dnf install kernel-core kernel-modules`"),
    **dict.fromkeys(("opensuse-leap", "opensuse-tumbleweed", "sles"), "`zypper install kernel-default`"),
}
_OTHER_KERNEL = (
    "In the machine that the image was made from, install a kernel with the virtio drivers, such as that of the "
    "distribution."
)
_INSTALL_CLOUD_INIT = {
    _Family.DEBIAN: "`apt-get install cloud-init`",
    _Family.DRACUT: "`dnf install cloud-init && systemctl enable cloud-init cloud-init-local cloud-config cloud-final`",
    _Family.SUSE: "`zypper install cloud-init && systemctl enable cloud-init cloud-init-local cloud-config "
    "cloud-final`",
    _Family.ALPINE: "`apk add cloud-init && setup-cloud-init`",
    _Family.ARCH: "`pacman -S cloud-init && systemctl enable cloud-init-main cloud-final`",
}
_OTHER_CLOUD_INIT = "In the machine that the image was made from, install cloud-init and enable its services."
_ENABLE_CLOUD_INIT = (
    "`rm -f /etc/cloud/cloud-init.disabled && systemctl unmask cloud-init.target cloud-init.service "
    "cloud-init-main.service`"
)
_WINDOWS_DRIVER = (
    "In the machine that the image was made from, install the drivers with virtio-win-guest-tools.exe from the "
    "virtio-win ISO; attach a second disk of the type {device} and start it once, so that Windows enables {service}. "
)
_WINDOWS_DISABLED = (
    "In the machine that the image was made from, run `sc.exe config {service} start= boot` and `reg delete "
    "HKLM\\SYSTEM\\CurrentControlSet\\Services\\{service}\\StartOverride /f`. "
)
_UNKNOWN = "Read the notes of this report for the reason, then launch a server and watch its console."


def _hint(part: Part, state: Support, report: BootReadiness) -> str:
    family = _family(report)
    if state is Support.UNKNOWN:
        return _UNKNOWN
    if part is Part.CLOUD_INIT:
        return _cloud_hint(family, state)
    if family is _Family.WINDOWS:
        return _windows_hint(part, state)
    if state is Support.DISABLED:
        return _run(None, f"In the machine that the image was made from, remove {part.lower()} from /etc/modprobe.d.")
    if state is Support.NOT_IN_INITRAMFS:
        return _run(_ADD_TO_INITRAMFS.get(family), _OTHER_INITRAMFS)
    return _run(_INSTALL_KERNEL.get(report.os_family or ""), _OTHER_KERNEL)


def _windows_hint(part: Part, state: Support) -> str:
    service = _SERVICES[part]
    if part is Part.VIRTIO_NET:
        change = "install the drivers with virtio-win-guest-tools.exe from the virtio-win ISO"
        if state is Support.DISABLED:
            change = "run `sc.exe config netkvm start= demand`"
        return f"In the machine that the image was made from, {change}. {_AGAIN}"
    if state is Support.DISABLED:
        return _WINDOWS_DISABLED.format(service=service) + _AGAIN
    device = {Part.VIRTIO_BLK: "virtio-blk", Part.VIRTIO_SCSI: "virtio-scsi"}[part]
    return _WINDOWS_DRIVER.format(device=device, service=service) + _AGAIN


def _cloud_hint(family: _Family, state: Support) -> str:
    if family is _Family.WINDOWS:
        change = "install cloudbase-init"
        if state is Support.DISABLED:
            change = "run `sc.exe config cloudbase-init start= auto`"
        return f"In the machine that the image was made from, {change}. {_AGAIN}"
    enable = state is Support.DISABLED
    return _run(_ENABLE_CLOUD_INIT if enable else _INSTALL_CLOUD_INIT.get(family), _OTHER_CLOUD_INIT)


def _run(command: str | None, otherwise: str) -> str:
    """A hint with a command to run as root, or with another instruction if no command is known."""
    return f"{otherwise} {_AGAIN}" if command is None else f"{_IN_SYSTEM} {command} as root. {_AGAIN}"


# ---------------------------------------------------------------- notes

NOTES = {
    Note.NOT_CONFINED: "The image was not checked: the gateway reads disks only inside bubblewrap, which does not work "
    "on its worker. An operator can run `images doctor` there.",
    Note.CHECK_FAILED: "The image was not checked to its end: reading its disk took more memory or time than allowed, "
    "or crashed the reader.",
    Note.NO_SYSTEM: "No operating system was found on the disk.",
    Note.SEVERAL_SYSTEMS: "The disk has several operating systems; the first one is described.",
    Note.ENCRYPTED: "A partition is encrypted, so nothing in it was checked.",
    Note.UNSUPPORTED_FILE_SYSTEM: "A partition has a file system that is not checked, such as btrfs, or is part of a "
    "RAID.",
    Note.DAMAGED_FILE_SYSTEM: "A file system on the disk can't be read.",
    Note.DAMAGED_VOLUME_GROUP: "A volume group of LVM on the disk can't be read.",
    Note.DAMAGED_REGISTRY: "The registry of Windows can't be read, or not in full.",
    Note.NO_KERNEL: "No kernel modules were found in /lib/modules.",
    Note.NO_INITRAMFS: "No initramfs of the newest kernel was found.",
    Note.DAMAGED_INITRAMFS: "The initramfs of the newest kernel can't be read: it is damaged, too large, or packed in "
    "an unknown way.",
    Note.UNIFIED_KERNEL: "The kernel is in a unified kernel image, whose initramfs is not checked.",
}
