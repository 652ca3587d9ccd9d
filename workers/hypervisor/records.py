"""What a host writes down about its servers and points, so that another process can continue."""

import secrets
import uuid
from dataclasses import asdict, dataclass

from workers.hypervisor.files import ServerFiles, VolumeFiles, read_json, write_json
from workers.hypervisor.port import HypervisorError, MachineSpec


@dataclass(frozen=True, slots=True)
class PointRecord:
    """A point of a volume of `size` bytes.

    `server` is the server that ran at the moment, with the volume as its disk `number`; None if none ran. `export` is
    the name under which QEMU serves it. While `taken` is false, the point is being taken, or was when a process died.
    """

    size: int
    export: str
    server: str | None = None
    number: int = 0
    quiet: bool = True
    taken: bool = False

    def write(self, volume: VolumeFiles) -> None:
        """Make this the record of the volume's point."""
        # What a server serves ends with the machine. So the guest's own writes, which a flush would have to wait for,
        # do not delay the point.
        write_json(volume.point, asdict(self), flushed=self.server is None)


@dataclass(frozen=True, slots=True)
class Use:
    """The server that runs from a volume, with it as disk `number`."""

    server: str
    number: int


def point_of(volume: VolumeFiles) -> PointRecord | None:
    """The record of a volume's point; None if it has none."""
    try:
        found = read_json(volume.point)
    except ValueError:
        # It was not flushed when the machine went down, so it was that of a server, whose point is gone.
        return None
    return None if found is None else PointRecord(**found)


def new_export() -> str:
    """A name for an export that no other point ever had, so that a reader of an older point finds nothing."""
    return f"point-{secrets.token_hex(8)}"


def write_use(volume: VolumeFiles, use: Use) -> None:
    """Write down which server runs from a volume. Not in the file `used`, which that server's QEMU could change."""
    write_json(volume.use, asdict(use))


def use_of(volume: VolumeFiles) -> Use:
    """The server that runs from a volume whose file `used` is locked."""
    found = read_json(volume.use)
    if found is None:
        raise HypervisorError(f"volume {volume.id} is in use by an unknown server")
    return Use(**found)


def machine_uuid(server: ServerFiles) -> str | None:
    """The UUID of a server's virtual machine; None if the server does not exist."""
    found = read_json(server.description)
    return None if found is None else str(found["uuid"])


def write_server(server: ServerFiles, spec: MachineSpec) -> str:
    """Write down the spec of a server; return the UUID of its virtual machine, which stays the same."""
    identity = machine_uuid(server) or str(uuid.uuid4())
    write_json(server.description, {"uuid": identity, "spec": {**asdict(spec), "volumes": list(spec.volumes)}})
    return identity
