"""A versitygw of a test: an S3 server that keeps objects as files, and whose code shares nothing with MinIO's."""

import http.client
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.process import Server

KEY, SECRET = "images", "images-secret"
_BUILDER = Path(__file__).parents[2] / ".ci" / "versitygw"


def versitygw_program() -> Path:
    """Where versitygw is, or would be once `.ci/versitygw` has built it."""
    asked = subprocess.run([_BUILDER, "path"], check=True, capture_output=True, text=True, timeout=30)
    return Path(asked.stdout.strip())


class Versitygw(Server):
    """versitygw on one folder, with its accounts in another."""

    def __init__(self, folder: Path, program: Path) -> None:
        super().__init__(folder)
        self.program = program

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def store_url(self, bucket: str, prefix: str = "") -> str:
        """What IMAGES_OBJECT_STORE takes."""
        return f"s3+http://{KEY}:{SECRET}@127.0.0.1:{self.port}/{bucket}" + (f"/{prefix}" if prefix else "")

    def prepare(self) -> None:
        for name in ("objects", "accounts", "attributes"):
            (self.folder / name).mkdir(exist_ok=True)

    def command(self) -> Sequence[str]:
        options = ["--port", f"127.0.0.1:{self.port}", "--iam-dir", str(self.folder / "accounts")]
        # Attributes of objects go into a folder of their own: not every file system of tests has extended ones.
        backend = ["posix", "--sidecar", str(self.folder / "attributes"), str(self.folder / "objects")]
        return (str(self.program), *options, "--quiet", "--keep-alive", "--health", "/healthz", *backend)

    def environment(self) -> Mapping[str, str]:
        return {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}

    def is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
