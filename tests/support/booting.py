"""What tests of boot readiness and boot checks ask for, in few words."""

from typing import Any

from app.boot_readiness.report import BootReadiness, Firmware, Support
from app.catalog import findings
from app.lifecycle import Architecture, JobKind
from app.models import Blob
from tests.support.gateway import Gateway

READINESS = """bootReadiness { firmware virtioBlk { state message hint } virtioNet { state hint } virtioScsi { state }
  cloudInit { state } os { displayName } architecture notes }"""
CHECKED = "bootChecked { result seen afterSeconds console checkedAt }"
READY = BootReadiness(
    os_family="debian",
    os_version="12",
    architecture=Architecture.X86_64,
    firmware=Firmware.BOTH,
    virtio_blk=Support.PRESENT,
    virtio_net=Support.PRESENT,
    virtio_scsi=Support.PRESENT,
    cloud_init=Support.MISSING,
)


async def find(gateway: Gateway, image: dict[str, Any], report: BootReadiness = READY) -> None:
    """Do the job that checks the readiness of a new image, with this outcome."""
    claim = await gateway.claim(image["id"], JobKind.CHECK_READINESS)
    await findings.keep_readiness(gateway.catalogue, claim, report)


async def known(gateway: Gateway, image: dict[str, Any], **values: Any) -> None:
    """Change what is known about the bytes of an image."""
    await gateway.change(Blob, (await gateway.blob(image)).id, **values)


async def shown(gateway: Gateway, image: dict[str, Any], fields: str) -> Any:
    """Fields of an image, as the API shows them."""
    document = f"query ($id: ID!) {{ image(by: {{id: $id}}) {{ {fields} }} }}"
    return (await gateway.ask(document, id=image["id"]))["image"]
