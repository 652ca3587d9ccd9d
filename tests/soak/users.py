"""Legitimate users: they read pages, upload, wait, download, rename and watch, each in a thread of its own."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.bench.asking import asked, connected, request
from tests.e2e.client import Client, Refused
from tests.soak.figures import Samples
from tests.soak.target import Target
from tests.soak.watchers import Watchers

_MIB = 1 << 20
_PAGE = """
query Page($project: ID!, $filter: ImageFilter) {
  images(projectId: $project, first: 20, filter: $filter) {
    totalCount nodes { id name status visibility virtualSize minBootDiskGib createdAt os { displayName } }
  }
}"""
_RENAME = """
mutation Rename($id: ID!, $name: String!) { updateImage(input: {imageId: $id, name: $name}) { userErrors { code } } }"""
_PAUSE_SECONDS = {"page": 0.1, "search": 0.2, "image": 0.5, "rename": 0.3}


class Users:
    """Everybody who uses the gateway as it is meant to be used."""

    def __init__(self, target: Target, folder: Path, samples: Samples) -> None:
        self._target, self._folder, self._samples = target, folder, samples
        self._over = threading.Event()
        self.watchers = Watchers(target, samples)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Lets them all work until the end of the block; each finishes what it has begun."""
        jobs = [
            lambda: self._pages("page", None),
            lambda: self._pages("search", {"nameContains": "ubuntu"}),
            lambda: self._again_and_again("image", self._image),
            lambda: self._again_and_again("image", self._image),
            lambda: self._renames(),
        ]
        self.watchers.start()
        threads = [threading.Thread(target=job) for job in jobs]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _pages(self, kind: str, filter_: dict[str, str] | None) -> None:
        caller = {"authorization": f"Bearer {self._target.user}"}
        variables = {"project": self._target.project, "filter": filter_}
        page = request(self._target.host, "/graphql", _PAGE, variables, caller)
        while not self._over.is_set():
            try:
                with connected(self._target.host) as connection:
                    while not self._over.wait(_PAUSE_SECONDS[kind]):
                        with self._samples.timed(kind):
                            asked(connection, page)
            except Exception as error:  # whatever it is, a user met with it
                self._note(kind, error)

    def _again_and_again(self, kind: str, do: Callable[[Client], None]) -> None:
        with self._target.client() as client:
            while not self._over.wait(_PAUSE_SECONDS[kind]):
                try:
                    do(client)
                except (AssertionError, Refused, httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                    self._note(kind, error)

    def _image(self, client: Client) -> None:
        """Upload an image, wait until it is ACTIVE, download it and delete it."""
        disk = self._folder / f"ubuntu-{threading.get_ident()}.raw"
        # Without a boot sector: one image in some ten thousand would begin as an archive does, and be refused.
        content = bytes(512) + os.urandom(_MIB - 512)
        disk.write_bytes(content)
        with self._samples.timed("create"):
            image_id, upload_id = client.create(disk, format="RAW")
        for part in client.missing(image_id):
            with self._samples.timed("part"):
                answer = client.put(disk, part)
            assert answer.status_code == 200, answer.text
        with self._samples.timed("complete"):
            client.mutate("completeUpload", uploadId=upload_id)
        with self._samples.timed("conversion"):
            image = client.active(image_id)
        self._download(client, image, content)
        client.mutate("deleteImage", imageId=image_id)

    def _download(self, client: Client, image: dict[str, object], content: bytes) -> None:
        copy = self._folder / f"downloaded-{threading.get_ident()}.qcow2"
        with self._samples.timed("download"):
            digest = client.download(image, copy)
        got = copy.read_bytes()
        assert digest == hashlib.sha256(got).hexdigest()
        # What stood at the beginning of the file makes room for the header of the qcow2.
        assert content[_MIB // 2 :] in got, "the bytes that were uploaded are not in what was downloaded"

    def _renames(self) -> None:
        disk = self._folder / "renamed.raw"
        disk.write_bytes(bytes(_MIB))
        with self._target.client() as client:
            image_id, _ = client.create(disk)
        numbers = iter(range(1 << 30))

        def rename(client: Client) -> None:
            with self._samples.timed("rename"):
                renamed = client.ask(_RENAME, id=image_id, name=f"renamed {next(numbers)}")["updateImage"]
            assert not renamed["userErrors"], renamed

        self._again_and_again("rename", rename)

    def _note(self, kind: str, error: Exception) -> None:
        self._samples.failed(f"{kind}: {type(error).__name__}: {str(error)[:200]}")
