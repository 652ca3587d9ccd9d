"""Writes the disk from which cloud-init takes a server's name, keys and user data.

Source: cloud-init's documentation, datasource NoCloud: an ISO 9660 file system labelled `cidata`.
"""

import json
from io import BytesIO
from pathlib import Path

import pycdlib

from workers.hypervisor.port import Seed

_NO_USER_DATA = "#cloud-config\n{}\n"


def write_seed(path: Path, seed: Seed) -> None:
    """Write the disk to a file. Raises OSError."""
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    try:
        _add(image, "meta-data", meta_data(seed))
        _add(image, "user-data", _NO_USER_DATA if seed.user_data is None else seed.user_data)
        with path.open("wb") as file:
            image.write_fp(file)
    finally:
        image.close()


def meta_data(seed: Seed) -> str:
    """The meta-data of a server, as YAML."""
    # A string in JSON is one in YAML too, whatever characters it has.
    lines = [f"instance-id: {json.dumps(seed.instance_id)}", f"local-hostname: {json.dumps(seed.host_name)}"]
    if seed.ssh_keys:
        lines += ["public-keys:", *(f"  - {json.dumps(key.strip())}" for key in seed.ssh_keys)]
    return "\n".join(lines) + "\n"


def _add(image: "pycdlib.PyCdlib", name: str, text: str) -> None:
    content = text.encode()
    iso_name = f"/{name.upper().replace('-', '_')}.;1"
    image.add_fp(BytesIO(content), len(content), iso_name, rr_name=name, joliet_path=f"/{name}")
