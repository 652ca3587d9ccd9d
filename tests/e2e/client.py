"""A small client of the gateway for tests: GraphQL over HTTP, uploads in parts, streams over SSE."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from tests.e2e import images
from tests.e2e.gateway import Gateway

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.02
SETTLED = ("ACTIVE", "ERROR")

IMAGE = """
fragment It on Image {
  id name status revision virtualSize storedSize minBootDiskGib sha256 warnings
  failure { code message hint retriable }
  progress { phase }
  source { ... on UploadSource { declaredFormat detectedFormat size fileName } }
  upload { id state partCount receivedBytes }
  download { method url headers { name value } }
}
"""
_CREATE = """
mutation ($input: CreateImageInput!) {
  createImage(input: $input) {
    userErrors { code message hint field } cursor image { id upload { id } }
  }
}
"""
_MISSING = """
query ($image: ID!, $after: String) {
  image(by: {id: $image}) {
    upload {
      parts(status: MISSING, first: 100, after: $after) {
        nodes { number offset size request { method url headers { name value } } }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
}
"""
_EVENTS = """
query ($project: ID!, $image: ID, $after: EventCursor) {
  imageEvents(projectId: $project, imageId: $image, first: 100, after: $after) {
    nodes {
      __typename cursor imageId
      ... on ImageStatusChanged { from to failure { code retriable } }
      ... on ImageUpdated { fields }
    }
    pageInfo { hasNextPage }
  }
}
"""


@dataclass(frozen=True, slots=True)
class Part:
    """A range of bytes of a file, and the signed request that uploads it."""

    number: int
    offset: int
    size: int
    method: str
    url: str
    headers: dict[str, str]


class Refused(Exception):
    """Raised when a mutation answers with userErrors; `code` is that of the first."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(errors)
        self.code: str = errors[0]["code"]


class Client:
    """Speaks for one token in one project. Raises httpx.TransportError while no server answers."""

    def __init__(self, url: str, token: str, project_id: str) -> None:
        self.project_id = project_id
        self.graphql = f"{url}/graphql"
        self.headers = {"authorization": f"Bearer {token}"}
        self.http = httpx.Client(timeout=PATIENCE_SECONDS, headers=self.headers, trust_env=False)
        self._objects = httpx.Client(timeout=PATIENCE_SECONDS, trust_env=False)

    @classmethod
    def of(cls, gateway: Gateway, project: str = "alpha") -> Self:
        """A client of a gateway that `images up` runs, as the administrator of a project."""
        return cls(gateway.url, gateway.token, gateway.projects[project])

    @classmethod
    def with_token(cls, url: str, token: str, project: str) -> Self:
        """A client of a gateway for a token, in one of its projects."""
        client = cls(url, token, "")
        query = "query { viewer { projects(first: 100) { nodes { id name } } } }"
        nodes = client.ask(query)["viewer"]["projects"]["nodes"]
        client.project_id = next(node["id"] for node in nodes if node["name"] == project)
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()
        self._objects.close()

    # ------------------------------------------------------------ GraphQL

    def ask(self, document: str, **variables: Any) -> dict[str, Any]:
        """The data of a query or mutation; fails the test if there are errors."""
        answer = self.http.post(self.graphql, json={"query": document, "variables": variables})
        body = answer.json()
        assert "errors" not in body, body["errors"]
        data: dict[str, Any] = body["data"]
        return data

    def act(self, name: str, give: str, /, **given: Any) -> dict[str, Any]:
        """The payload of a mutation, with the fields `give`. Raises Refused."""
        kind = f"{name[0].upper()}{name[1:]}Input"
        errors = "userErrors { code message hint }"
        document = f"mutation ($input: {kind}!) {{ {name}(input: $input) {{ {errors} {give} }} }}"
        used = IMAGE if "...It" in give else ""
        payload: dict[str, Any] = self.ask(document + used, input=given)[name]
        if payload["userErrors"]:
            raise Refused(payload["userErrors"])
        return payload

    def mutate(self, name: str, **given: Any) -> dict[str, Any]:
        """What a mutation of an image answers. Raises Refused."""
        return self.act(name, "deletedImageId" if name == "deleteImage" else "image { ...It }", **given)

    def image(self, image_id: str) -> dict[str, Any]:
        """An image as it is now."""
        query = "query ($id: ID!) { image(by: {id: $id}) { ...It } }"
        return dict(self.ask(query + IMAGE, id=image_id)["image"])

    def image_ids(self) -> list[str]:
        """The images of the project that are not deleted, a hundred at most."""
        query = "query ($id: ID!) { images(projectId: $id, first: 100) { nodes { id } } }"
        return [node["id"] for node in self.ask(query, id=self.project_id)["images"]["nodes"]]

    def events(self, image_id: str | None = None) -> list[dict[str, Any]]:
        """All of the feed, page by page from its start."""
        found: list[dict[str, Any]] = []
        more = True
        while more:
            after = found[-1]["cursor"] if found else None
            page = self.ask(_EVENTS, project=self.project_id, image=image_id, after=after)["imageEvents"]
            found += page["nodes"]
            more = page["pageInfo"]["hasNextPage"]
        return found

    def statuses(self, image_id: str) -> list[str]:
        """The statuses of an image by its feed; fails if a step does not begin where the last one ended."""
        steps = [event for event in self.events(image_id) if event["__typename"] == "ImageStatusChanged"]
        statuses = ["QUEUED"]
        for step in steps:
            assert step["from"] == statuses[-1], steps
            statuses.append(step["to"])
        return statuses

    # ------------------------------------------------------------ streams

    @contextmanager
    def stream(self, document: str, **variables: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """The data of a subscription over SSE, as it comes; ends with the stream."""
        body = {"query": document, "variables": variables}
        accept = {"accept": "text/event-stream"}
        with self.http.stream("POST", self.graphql, json=body, headers=accept) as response:
            assert response.status_code == 200, response.read()
            yield _answers(response)

    def when(self, image_id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first state of an image, from now on, for which `holds`. Fails after a minute."""
        query = "subscription ($id: ID!) { image(id: $id) { ...It } }"
        deadline = time.monotonic() + PATIENCE_SECONDS
        image: dict[str, Any] = {}
        with self.stream(query + IMAGE, id=image_id) as answers:
            for answer in answers:
                image = answer["image"]
                if holds(image):
                    return image
                assert time.monotonic() < deadline, f"it stays {image}"
        raise AssertionError(f"the stream ended at {image}")

    def settled(self, image_id: str) -> dict[str, Any]:
        """An image as soon as it is ACTIVE or in ERROR."""
        return self.when(image_id, lambda image: image["status"] in SETTLED)

    def settled_when_asked(self, image_id: str, seconds: float) -> dict[str, Any]:
        """The same by queries, for when no stream can be relied on. Fails after `seconds`."""

        def look() -> dict[str, Any] | None:
            image = self.image(image_id)
            return image if image["status"] in SETTLED else None

        return eventually(look, seconds)

    def active(self, image_id: str) -> dict[str, Any]:
        """An image as soon as it is ACTIVE; fails when it ends in ERROR."""
        image = self.settled(image_id)
        assert image["status"] == "ACTIVE", image["failure"]
        return image

    def hashed(self, image_id: str) -> dict[str, Any]:
        """An image as soon as its SHA-256 is known."""
        return self.when(image_id, lambda image: image["sha256"] is not None)

    # ------------------------------------------------------------ bytes

    def create(self, path: Path, **upload: Any) -> tuple[str, str]:
        """An image that waits for the bytes of a file, and its upload: their ids. Raises Refused."""
        name = upload.pop("name", path.name)
        source = {"upload": {"fileName": path.name, "size": path.stat().st_size, **upload}}
        given = {"projectId": self.project_id, "name": name, "source": source}
        payload = self.ask(_CREATE, input=given)["createImage"]
        if payload["userErrors"]:
            raise Refused(payload["userErrors"])
        return payload["image"]["id"], payload["image"]["upload"]["id"]

    def missing(self, image_id: str) -> list[Part]:
        """The parts that have still to be sent; none when the upload takes no more."""
        parts: list[Part] = []
        after = None
        while True:
            upload = self.ask(_MISSING, image=image_id, after=after)["image"]["upload"]
            if upload is None:
                return []
            parts += [_part(node) for node in upload["parts"]["nodes"] if node["request"]]
            after = upload["parts"]["pageInfo"]["endCursor"]
            if not upload["parts"]["pageInfo"]["hasNextPage"]:
                return parts

    def put(self, path: Path, part: Part) -> httpx.Response:
        """Send a part of a file."""
        headers = {**part.headers, "content-length": str(part.size)}
        return self._objects.request(part.method, part.url, headers=headers, content=_bytes_of(path, part))

    def put_all(self, path: Path, parts: Sequence[Part]) -> None:
        """Send parts, three at a time and the last first. Fails when one is refused."""
        with ThreadPoolExecutor(3) as pool:
            for answer in pool.map(lambda part: self.put(path, part), reversed(parts)):
                assert answer.status_code == 200, answer.text

    def upload(self, path: Path, **upload: Any) -> str:
        """Create an image, send its bytes and complete it: its id."""
        image_id, upload_id = self.create(path, **upload)
        self.put_all(path, self.missing(image_id))
        self.mutate("completeUpload", uploadId=upload_id)
        return image_id

    def resume(self, path: Path, image_id: str, upload_id: str) -> None:
        """Send the missing parts of an upload and complete it. Does nothing if it is complete."""
        self.put_all(path, self.missing(image_id))
        self.mutate("completeUpload", uploadId=upload_id)

    def download(self, image: dict[str, Any], target: Path) -> str:
        """Fetch the bytes of an image; their SHA-256."""
        digest = hashlib.sha256()
        request = image["download"]
        headers = {header["name"]: header["value"] for header in request["headers"]}
        with self._objects.stream(request["method"], request["url"], headers=headers) as response:
            assert response.status_code == 200, response.read()
            with target.open("wb") as file:
                for chunk in response.iter_bytes(1 << 20):
                    digest.update(chunk)
                    file.write(chunk)
        return digest.hexdigest()

    def check_holds(self, image_id: str, source: Path, driver: str, folder: Path) -> None:
        """Fails unless an image becomes ACTIVE, and what is downloaded is sound and the same disk as its source."""
        result = folder / "downloaded.qcow2"
        self.active(image_id)
        image = self.hashed(image_id)
        assert self.download(image, result) == image["sha256"]
        images.check_sound(result)
        images.check_same_disk(source, driver, result)


def eventually(look: Callable[[], T | None], seconds: float = PATIENCE_SECONDS) -> T:
    """The first true result of `look`. Fails with the last result if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"after {seconds} s still {seen!r}"
        time.sleep(_POLL_SECONDS)
    return seen


def becomes(look: Callable[[], object], expected: object, seconds: float = PATIENCE_SECONDS) -> None:
    """Fails, with the difference, unless `look` returns the expected value in time."""
    deadline = time.monotonic() + seconds
    while (seen := look()) != expected and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    assert seen == expected


def stored(data: Path) -> set[str]:
    """The files in the store of a data folder, by their paths in it."""
    store = data / "store"
    return {os.path.relpath(os.path.join(folder, name), store) for folder, _, names in os.walk(store) for name in names}


def _answers(response: httpx.Response) -> Iterator[dict[str, Any]]:
    kind = ""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for line in response.iter_lines():
        assert time.monotonic() < deadline, f"the stream has nothing new in {PATIENCE_SECONDS} s"
        if line.startswith("event:"):
            kind = line.removeprefix("event:").strip()
        elif line.startswith("data:") and kind == "next":
            body = json.loads(line.removeprefix("data:"))
            assert "errors" not in body, body["errors"]
            yield body["data"]
            deadline = time.monotonic() + PATIENCE_SECONDS


def _part(node: dict[str, Any]) -> Part:
    request = node["request"]
    headers = {header["name"]: header["value"] for header in request["headers"]}
    return Part(node["number"], node["offset"], node["size"], request["method"], request["url"], headers)


def _bytes_of(path: Path, part: Part) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(part.offset)
        left = part.size
        while left:
            chunk = file.read(min(left, 1 << 20))
            left -= len(chunk)
            yield chunk
