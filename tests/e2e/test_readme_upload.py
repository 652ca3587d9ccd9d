"""The API guide's upload by hand: its commands, as they stand there, against a gateway that runs."""

import gzip
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import Client
from tests.e2e.gate import Gate
from tests.e2e.gateway import Gateway, running

pytestmark = pytest.mark.needs_program("curl", "jq", "qemu-img")

GUIDE = Path(__file__).parents[2] / "docs/api.md"
MIB = 1024 * 1024
SECONDS = 120


def commands() -> str:
    """From the address and the token to the completed upload of disk.vmdk."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    chosen = [block for block in blocks if block.startswith(("C=data/connection.json", "FILE=disk.vmdk"))]
    assert len(chosen) == 2
    return "".join(chosen)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that takes parts of 1 MiB."""
    with running(tmp_path / "gateway", {"IMAGES_MINIMUM_PART_SIZE": str(MIB)}) as gateway:
        yield gateway


@pytest.fixture
def gate(gateway: Gateway) -> Iterator[Gate]:
    with Gate(gateway.port).open() as gate:
        yield gate


@pytest.fixture
def folder(gateway: Gateway, gate: Gate, tmp_path: Path) -> Path:
    """Where the commands are run: data/connection.json in it leads through the gate."""
    folder = tmp_path / "checkout"
    (folder / "data").mkdir(parents=True)
    connection = json.loads((gateway.data / "connection.json").read_text())
    connection["graphql"] = f"{gate.url}/graphql"
    (folder / "data" / "connection.json").write_text(json.dumps(connection))
    return folder


def start(folder: Path) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(["bash", "-c", commands()], cwd=folder, stdout=pipe, stderr=pipe, text=True)


def last_answer(out: str) -> dict[str, Any]:
    """The payload of completeUpload, which is printed last."""
    payload: dict[str, Any] = json.loads(out[out.rindex('{"data"') :])["data"]["completeUpload"]
    return payload


def test_the_loop_sends_every_part_once_and_completes(gateway: Gateway, gate: Gate, folder: Path) -> None:
    (folder / "disk.raw").write_bytes(os.urandom(3 * MIB))
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "disk.raw", "disk.vmdk"]
    subprocess.run(convert, cwd=folder, check=True, timeout=SECONDS)

    with start(folder) as process:
        out, err = process.communicate(timeout=SECONDS)

    assert err == ""
    payload = last_answer(out)
    assert payload["userErrors"] == []
    assert gate.parts == list(range(1, -(-(folder / "disk.vmdk").stat().st_size // MIB) + 1))
    with Client.of(gateway) as client:
        client.active(payload["image"]["id"])


def test_the_loop_ends_and_says_why_when_the_upload_is_refused(gateway: Gateway, gate: Gate, folder: Path) -> None:
    (folder / "disk.vmdk").write_bytes(gzip.compress(os.urandom(4 * MIB)))
    gate.hold(lambda number: number > 1)

    with start(folder) as process, Client.of(gateway) as client:
        gate.wait_until_held(1)
        (image_id,) = client.image_ids()
        image = client.settled(image_id)
        gate.release()
        out, err = process.communicate(timeout=SECONDS)

    assert image["failure"]["code"] == "FORMAT_MISMATCH"
    assert gate.parts == [2]
    assert '"code":"UPLOAD_CLOSED"' in out
    why = {"message": image["failure"]["message"], "hint": image["failure"]["hint"]}
    assert last_answer(out) == {"userErrors": [why], "image": {"id": image["id"], "status": "ERROR"}}
    assert "409" in err
