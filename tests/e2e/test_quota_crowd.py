"""Five hundred who create images at once, at four API processes: never one too many, and none too few."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.bench.asking import asked, connected, request
from tests.e2e.cluster import ImagesProcess, running_cluster, when_all_serve
from tests.e2e.gateway import clean_environment, running
from tests.e2e.images import MiB

CROWD = 500
PROCESSES = 4
OWNER = "boss"
GiB = 1024 * MiB

_CREATE = """mutation ($input: CreateImageInput!) { createImage(input: $input) {
  image { id } userErrors { code ... on ByteQuotaError { used reserved } ... on CountQuotaError { have: used } } } }"""
_LIMIT = """mutation ($input: SetProjectQuotaInput!) { setProjectQuota(input: $input) { userErrors { message } } }"""
_STATE = """query ($id: ID!) { project(id: $id) { quota {
  customImages { limit used } imageStorage { limit used reserved } } }
  images(projectId: $id, first: 1) { totalCount } }"""
_DELETE = "mutation ($input: DeleteImageInput!) { deleteImage(input: $input) { userErrors { code } } }"


@dataclass(frozen=True)
class Crowded:
    """A gateway of several API processes: their addresses, a token, and how to create a project."""

    urls: Sequence[str]
    token: str
    found: Callable[[str], str]

    def ask(self, document: str, *, at: int = 0, meet: Callable[[], object] = lambda: None, **variables: Any) -> Any:
        """The data that the `at`-th process answers with, round and round. Who is connected waits in `meet`."""
        parts = urlsplit(self.urls[at % len(self.urls)])
        assert parts.hostname is not None
        assert parts.port is not None
        host = (parts.hostname, parts.port)
        body = request(host, "/graphql", document, variables, {"authorization": f"Bearer {self.token}"})
        with connected(host) as connection:
            meet()
            return json.loads(asked(connection, body).partition(b"\r\n\r\n")[2])["data"]

    def crowd(self, project: str, size: int) -> list[dict[str, Any]]:
        """The responses to five hundred callers that each create an image of `size` bytes at the same time."""
        wish = {"projectId": project, "name": "disk", "source": {"upload": {"fileName": "disk.raw", "size": size}}}
        start = threading.Barrier(CROWD)
        with ThreadPoolExecutor(CROWD) as people:
            answers = people.map(lambda at: self.ask(_CREATE, at=at, meet=start.wait, input=wish), range(CROWD))
            return [answer["createImage"] for answer in answers]


@contextmanager
def on_sqlite(folder: Path) -> Iterator[Crowded]:
    """`images up`, and three more API processes on its folder."""
    with ExitStack() as stack:
        gateway = stack.enter_context(running(folder / "data", {"IMAGES_WORKERS": "1"}))
        settings = clean_environment({"IMAGES_DATA": str(folder / "data")})
        others = [ImagesProcess(folder / f"api-{number}", ["serve"], settings) for number in range(1, PROCESSES)]
        for process in others:
            stack.callback(process.stop)
            process.start()
        projects = iter(gateway.projects.values())
        yield Crowded([gateway.url, *(process.url for process in others)], gateway.token, lambda _name: next(projects))


@contextmanager
def on_postgresql(folder: Path) -> Iterator[Crowded]:
    """Four API processes on PostgreSQL, Redis and MinIO."""
    with running_cluster(folder, apis=PROCESSES, workers=0) as cluster:
        when_all_serve(cluster)
        token = cluster.token(OWNER)

        def found(name: str) -> str:
            printed = cluster.run(
                "create-organization", "--organization", "crowded", "--project", name, "--owner", OWNER
            )
            return printed.split()[0]

        yield Crowded([api.url for api in cluster.apis], token, found)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(on_sqlite, id="sqlite"),
        pytest.param(on_postgresql, id="postgresql", marks=pytest.mark.needs_program("redis-server")),
    ],
)
def crowded(request: pytest.FixtureRequest, module_folder: Path) -> Iterator[Crowded]:
    folder = module_folder / request.param.__name__
    folder.mkdir()
    with request.param(folder) as gateway:
        yield gateway


def codes(answers: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """How many were answered how."""
    return Counter(answer["userErrors"][0]["code"] if answer["userErrors"] else "made" for answer in answers)


def test_fifty_images_are_made_and_not_one_more(crowded: Crowded) -> None:
    project = crowded.found("counted")

    answers = crowded.crowd(project, MiB)

    assert codes(answers) == {"made": 50, "QUOTA_EXCEEDED": CROWD - 50}
    state = crowded.ask(_STATE, id=project)
    assert state["project"]["quota"]["customImages"] == {"limit": 50, "used": 50}
    assert state["images"]["totalCount"] == 50
    # Each refusal states the usage at that time: none happens before the last image is made.
    assert {answer["userErrors"][0]["have"] for answer in answers if answer["userErrors"]} == {50}


def test_bytes_are_promised_up_to_the_limit_and_not_one_more(crowded: Crowded) -> None:
    project = crowded.found("weighed")
    size, room = 30 * MiB, GiB // (30 * MiB)
    limits = {"projectId": project, "customImages": 2 * CROWD, "imageStorageGib": 1}
    assert crowded.ask(_LIMIT, input=limits)["setProjectQuota"] == {"userErrors": []}

    answers = crowded.crowd(project, size)

    assert codes(answers) == {"made": room, "QUOTA_EXCEEDED": CROWD - room}
    quota = crowded.ask(_STATE, id=project)["project"]["quota"]
    assert quota["imageStorage"] == {"limit": GiB, "used": 0, "reserved": room * size}
    # What one gives back, one other gets.
    made = next(answer["image"]["id"] for answer in answers if answer["image"])
    assert crowded.ask(_DELETE, input={"imageId": made})["deleteImage"] == {"userErrors": []}
    assert codes(crowded.crowd(project, size))["made"] == 1
