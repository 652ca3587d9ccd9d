"""The disk that cloud-init reads at the first boot of a server."""

from io import BytesIO
from pathlib import Path

import pycdlib
import pytest
import yaml

from workers.hypervisor.port import Seed
from workers.hypervisor.seed import write_seed

KEYS = ("ssh-ed25519 AAAA one@example", 'ssh-rsa BBBB "two": #')


def written(path: Path, seed: Seed, **name: str) -> bytes:
    write_seed(path, seed)
    image = pycdlib.PyCdlib()
    image.open(str(path))
    try:
        assert image.pvd.volume_identifier.strip() == b"cidata"
        content = BytesIO()
        image.get_file_from_iso_fp(content, **name)
        return content.getvalue()
    finally:
        image.close()


@pytest.mark.parametrize("kind", ["rr_path", "joliet_path"])
def test_cloud_init_finds_its_files_by_both_extensions(tmp_path: Path, kind: str) -> None:
    seed = Seed("instance-1", "web-1", KEYS, "#!/bin/sh\necho hello\n")
    found = yaml.safe_load(written(tmp_path / "seed.iso", seed, **{kind: "/meta-data"}))
    assert found == {"instance-id": "instance-1", "local-hostname": "web-1", "public-keys": list(KEYS)}
    assert written(tmp_path / "seed.iso", seed, **{kind: "/user-data"}) == b"#!/bin/sh\necho hello\n"


def test_a_name_that_looks_like_something_else_stays_a_name(tmp_path: Path) -> None:
    found = yaml.safe_load(written(tmp_path / "seed.iso", Seed("1", "no"), rr_path="/meta-data"))
    assert found == {"instance-id": "1", "local-hostname": "no"}


def test_no_user_data_is_an_empty_configuration(tmp_path: Path) -> None:
    content = written(tmp_path / "seed.iso", Seed("i", "n"), rr_path="/user-data")
    assert content.startswith(b"#cloud-config\n")
    assert yaml.safe_load(content) == {}


def test_user_data_may_be_long(tmp_path: Path) -> None:
    text = "#cloud-config\n" + "# ü\n" * 10_000
    assert written(tmp_path / "seed.iso", Seed("i", "n", user_data=text), rr_path="/user-data") == text.encode()
