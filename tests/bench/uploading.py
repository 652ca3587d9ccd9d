"""Creates images and sends their bytes through signed requests, with a client that costs little itself."""

import http.client
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import httpx

from tests.bench.serving import Gateway, MeasurementFailed

_ANSWER_SECONDS = 120
_PAGE = 100

_CREATE = """
mutation Create($input: CreateImageInput!) {
  createImage(input: $input) { userErrors { message hint } image { id upload { id } } }
}"""
_PARTS = """
query Parts($id: ID!, $after: String) {
  node(id: $id) { ... on ImageUpload { parts(first: 100, after: $after) {
    nodes { offset size request { method url headers { name value } } }
    pageInfo { hasNextPage endCursor }
  } } }
}"""
_COMPLETE = """
mutation Complete($id: ID!) { completeUpload(input: {uploadId: $id}) { userErrors { message hint } } }"""
_DELETE = "mutation Delete($id: ID!) { deleteImage(input: {imageId: $id}) { userErrors { message hint } } }"


@dataclass(frozen=True, slots=True)
class Part:
    """A run of bytes of the file, and the path that they are to be PUT to."""

    path: str
    offset: int
    size: int
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Upload:
    """An image that waits for its bytes, and the server that takes them."""

    image_id: str
    upload_id: str
    host: tuple[str, int]
    parts: Sequence[Part]


def create(gateway: Gateway, file: Path, format_: str, *, size: int | None = None, single: bool = False) -> Upload:
    """A new image, for a file that is named and as long as `file`, or `size` bytes long."""
    length = file.stat().st_size if size is None else size
    source = {"fileName": file.name, "size": length, "format": format_, "multipart": not single}
    system = {"family": "ubuntu", "version": "24.04"}
    wanted = {"projectId": gateway.project_id, "name": file.name, "os": system, "source": {"upload": source}}
    image = gateway.ask(_CREATE, input=wanted)["createImage"]["image"]
    return Upload(image["id"], image["upload"]["id"], *_parts(gateway, image["upload"]["id"]))


def _parts(gateway: Gateway, upload_id: str) -> tuple[tuple[str, int], list[Part]]:
    parts: list[Part] = []
    host: tuple[str, int] = ("", 0)
    after: str | None = None
    while True:
        page = gateway.ask(_PARTS, id=upload_id, after=after)["node"]["parts"]
        for node in page["nodes"]:
            host, path = parted(node["request"]["url"])
            headers = tuple((header["name"], header["value"]) for header in node["request"]["headers"])
            parts.append(Part(path, node["offset"], node["size"], headers))
        if not page["pageInfo"]["hasNextPage"]:
            return host, parts
        after = page["pageInfo"]["endCursor"]


def parted(url: str) -> tuple[tuple[str, int], str]:
    """Where a URL leads to, and what to ask for there."""
    address = httpx.URL(url)
    return (address.host, address.port or 80), address.raw_path.decode()


def complete(gateway: Gateway, upload: Upload) -> None:
    """Say that all bytes were sent."""
    gateway.ask(_COMPLETE, id=upload.upload_id)


def delete(gateway: Gateway, image_id: str) -> None:
    """Remove an image."""
    gateway.ask(_DELETE, id=image_id)


@dataclass(frozen=True, slots=True)
class Sent:
    """When the first request began and when the last one was answered, by time.perf_counter()."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


def send(host: tuple[str, int], file: Path, parts: Sequence[Part], at_once: int = 4) -> Sent:
    """PUT the parts, `at_once` at a time, over connections that are kept open. Raises MeasurementFailed.

    The bytes go from the page cache to the socket inside the kernel (sendfile(2)), so that this side leaves the
    processor to the other.
    """
    waiting: SimpleQueue[Part] = SimpleQueue()
    for part in parts:
        waiting.put(part)
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        for done in [threads.submit(_send_some, host, file, waiting) for _ in range(at_once)]:
            done.result()
    return Sent(began, time.perf_counter())


def _send_some(host: tuple[str, int], file: Path, waiting: SimpleQueue[Part]) -> None:
    connection = http.client.HTTPConnection(*host, timeout=_ANSWER_SECONDS)
    try:
        with file.open("rb", buffering=0) as source:
            while True:
                part = waiting.get_nowait()
                connection.putrequest("PUT", part.path, skip_accept_encoding=True)
                connection.putheader("Content-Length", str(part.size))
                for name, value in part.headers:
                    connection.putheader(name, value)
                connection.endheaders()
                connection.sock.sendfile(source, part.offset, part.size)
                response = connection.getresponse()
                text = response.read()
                if response.status not in (200, 204):
                    raise MeasurementFailed(f"PUT {part.path}: {response.status} {text[:500]!r}")
    except Empty:
        return
    finally:
        connection.close()
