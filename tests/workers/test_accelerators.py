"""KVM is used only where a guest can really run on it."""

import os
from pathlib import Path

import pytest

from workers.hypervisor.accelerators import KVM_DEVICE, Accelerator, detect

ABLE = "processor : 0\nflags\t\t: fpu vme vmx sse2\n"
UNABLE = "processor : 0\nflags\t\t: fpu vme sse2\nmodel name : vmx svm\n"


@pytest.fixture
def cpus(tmp_path: Path) -> Path:
    return tmp_path / "cpuinfo"


def test_a_processor_that_can_not_run_guests_means_emulation(cpus: Path) -> None:
    cpus.write_text(UNABLE)
    assert detect(KVM_DEVICE, cpus) is Accelerator.TCG


@pytest.mark.parametrize("device", ["/dev/null", "/dev/none"])
def test_a_device_that_creates_no_machines_means_emulation(cpus: Path, device: str) -> None:
    cpus.write_text(ABLE)
    assert detect(Path(device), cpus) is Accelerator.TCG


def test_a_machine_without_a_list_of_processors_means_emulation(cpus: Path) -> None:
    assert detect(KVM_DEVICE, cpus) is Accelerator.TCG


@pytest.mark.skipif(not os.access(KVM_DEVICE, os.R_OK | os.W_OK), reason="needs /dev/kvm")
def test_a_device_that_creates_machines_means_kvm(cpus: Path) -> None:
    cpus.write_text(ABLE)
    assert detect(KVM_DEVICE, cpus) is Accelerator.KVM
