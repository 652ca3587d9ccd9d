"""The examples of docs/servers.md, as they stand there, against a gateway that runs servers on real QEMU."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.gateway import Gateway, running
from tests.e2e.servers import SETTINGS, ending_servers
from tests.support.serving_servers import KEY
from tests.support.tiny_linux import TinyLinux
from tests.support.typed_commands import Run, typed

pytestmark = pytest.mark.needs_program("bwrap", "curl", "jq", "qemu-img", "qemu-nbd", "qemu-system-x86_64")

DOCS = Path(__file__).parents[2] / "docs"
SECONDS = 120


def examples(page: str) -> list[str]:
    """The blocks of shell on a page."""
    return re.findall(r"^```sh\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def gateway(module_folder: Path) -> Iterator[Gateway]:
    with ending_servers(module_folder / "data") as data, running(data, SETTINGS) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def folder(module_folder: Path, tiny_linux: TinyLinux) -> Path:
    """Where the commands are run: with the image and the key that they name."""
    (module_folder / "debian.qcow2").symlink_to(tiny_linux.qcow2())
    (module_folder / ".ssh").mkdir()
    (module_folder / ".ssh/id_ed25519.pub").write_text(f"{KEY}\n")
    return module_folder


@pytest.fixture(scope="module")
def ended(gateway: Gateway, folder: Path) -> Iterator[list[tuple[str, Run]]]:
    """How each command of the page ended, in turn."""
    lines = [line for block in examples("servers.md") for line in block.splitlines() if line.startswith("images ")]
    env = {"IMAGES_CONNECTION": str(gateway.data / "connection.json"), "XDG_CACHE_HOME": str(folder / "cache")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        yield [(line, typed(tuple(_words(line)), env)) for line in lines]


def _words(line: str) -> Iterator[str]:
    for word in shlex.split(line, comments=True)[1:]:
        yield str(Path(word).expanduser()) if word.startswith("~") else word


def test_every_command_of_the_page_does_what_it_says(ended: list[tuple[str, Run]]) -> None:
    assert [(line, run.err) for line, run in ended if run.code] == []
    said = {line: run.out for line, run in ended}
    assert said["images stop web"].startswith("web is STOPPED")
    assert said["images start web"].startswith("web is RUNNING")
    assert "debian" in said["images servers web"]
    assert "web, set up" in said["images snapshots web"]
    assert said['images promote "web, set up" --name golden'].startswith("golden is ACTIVE")
    assert said['images copy --from-server web --name "golden too"'].startswith("golden too is ACTIVE")
    assert "data" in said["images volumes"]


def test_the_calls_of_the_page_launch_stop_and_delete_a_server(
    gateway: Gateway, folder: Path, ended: list[tuple[str, Run]]
) -> None:
    [prelude] = [block for block in examples("api.md") if block.startswith("C=data/connection.json")]
    calls = [block for block in examples("servers.md") if "gql" in block]

    script = "\n".join(["set -euo pipefail", prelude, *calls])
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=SECONDS)

    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if line.isupper()] == ["RUNNING", "STOPPED"]
    assert re.search('"createImage":{"userErrors":\\[\\],"image":{"id":"img_[^"]*","status":"ACTIVE"', done.stdout)
    assert '"userErrors":[],"deletedServerId":"srv_' in done.stdout
