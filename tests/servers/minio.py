"""A MinIO of a test."""

import http.client
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.process import Server

# Of the administrator, and of the keys that a gateway has.
KEY, SECRET = "images", "images-secret"
GATEWAY_SECRET, UPLOAD_SECRET = "secret-of-the-gateway", "secret-of-part-urls"
_BUILDER = Path(__file__).parents[2] / ".ci" / "minio"


def minio_program() -> Path:
    """Where MinIO is, or would be once `.ci/minio` has built it."""
    asked = subprocess.run([_BUILDER, "path"], check=True, capture_output=True, text=True, timeout=30)
    return Path(asked.stdout.strip())


class Minio(Server):
    """MinIO on one folder, and without its console. `settings` are environment variables for it."""

    def __init__(self, folder: Path, program: Path, **settings: str) -> None:
        super().__init__(folder)
        self.program = program
        self._settings = settings

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def store_url(self, bucket: str, prefix: str = "", key: str = f"{KEY}:{SECRET}") -> str:
        """What IMAGES_OBJECT_STORE takes; with MinIO's own key, unless another is given."""
        return f"s3+http://{key}@127.0.0.1:{self.port}/{bucket}" + (f"/{prefix}" if prefix else "")

    def settings(self, bucket: str, prefix: str = "") -> dict[str, str]:
        """A bucket with limited keys, as docker-compose.yml has them; `images migrate` creates all three."""
        return {
            "IMAGES_OBJECT_STORE": self.store_url(bucket, prefix, f"gateway-{bucket}:{GATEWAY_SECRET}"),
            "IMAGES_OBJECT_STORE_UPLOAD_KEY": f"upload-{bucket}:{UPLOAD_SECRET}",
            "IMAGES_OBJECT_STORE_ADMIN_KEY": f"{KEY}:{SECRET}",
        }

    def command(self) -> Sequence[str]:
        return (
            str(self.program),
            "server",
            "--quiet",
            "--address",
            f"127.0.0.1:{self.port}",
            str(self.folder / "objects"),
        )

    def environment(self) -> Mapping[str, str]:
        return {
            "MINIO_ROOT_USER": KEY,
            "MINIO_ROOT_PASSWORD": SECRET,
            "MINIO_BROWSER": "off",
            # What was deleted would stay on the disk for five minutes.
            "MINIO_API_DELETE_CLEANUP_INTERVAL": "1s",
            "MINIO_UPDATE": "off",
            **self._settings,
        }

    def is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/minio/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
