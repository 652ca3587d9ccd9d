"""A whole gateway in the test's own process: a real database, a real folder, the API as the network reaches it."""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
from sqlalchemy import text
from sqlmodel import col, select
from starlette.applications import Starlette

from app.adapters.chosen import Messaging
from app.adapters.folder.store import FolderStore
from app.adapters.messaging.dramatiq_queue import DramatiqQueue, local_broker
from app.adapters.messaging.local_host_bells import LocalHostBells
from app.adapters.messaging.local_wakeups import LocalWakeups
from app.adapters.tokens import SecretTokens
from app.catalog import conversions, images, members
from app.catalog.catalogue import Catalogue
from app.catalog.conversions import Assignment
from app.catalog.outcome import Outcome, Way
from app.catalog.texts import name_key
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.database.migrations import migrate
from app.database.sessions import Database
from app.errors import ImageFailed
from app.graphql.transport.asgi import GatewayGraphQL
from app.lifecycle import Aspect, DiskFormat, FailureCode, ImageVisibility, JobKind, JobState, ProjectRole
from app.main import create_app
from app.models import TABLES, Blob, Event, Image, Job, Source, Upload
from app.ports import HostBells
from app.settings import Settings
from app.sizes import GIB, MIB
from workers.main import Workers

T = TypeVar("T")

ADMIN, MEMBER, READER, STRANGER = "ada", "max", "rita", "sam"
OPERATOR = "olga"
ROLES = {ADMIN: ProjectRole.ADMIN, MEMBER: ProjectRole.MEMBER, READER: ProjectRole.READER}
SECRET = "s" * 32
LEASE = timedelta(seconds=60)

CREATE = """mutation ($input: CreateImageInput!) { createImage(input: $input) {
  cursor userErrors { code message field hint }
  image { id name status revision upload { id partCount partSize parts(first: 100) { nodes {
    number size request { method url headers { name value } } } } } } } }"""


def empty_database(folder: Path) -> Path:
    """A migrated database to copy: to migrate takes longer than most tests."""
    path = folder / "images.db"
    migrate(f"sqlite+aiosqlite:///{path}")
    return path


async def until(holds: Callable[[], Awaitable[T]], seconds: float = 30) -> T:
    """Ask until the answer is true; returns it. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        # Nothing here is notified of what workers in other threads write into the database.
        while not (answer := await holds()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return answer


@dataclass
class Gateway:
    """A running gateway with the projects alpha and beta.

    In alpha ADMIN, MEMBER and READER are what their names say; STRANGER administers beta alone; OPERATOR's token
    makes her one. `database` and `store` are what a second process next to the gateway would open.
    """

    settings: Settings
    app: Starlette
    endpoint: GatewayGraphQL
    database: Database
    store: FolderStore
    wakeups: LocalWakeups
    queue: DramatiqQueue
    workers: Callable[[], Workers]
    client: httpx.AsyncClient
    alpha: str = ""
    beta: str = ""
    tokens: SecretTokens = field(default_factory=lambda: SecretTokens(SECRET.encode()))
    bells: HostBells = field(default_factory=LocalHostBells)

    # ------------------------------------------------------------ asking

    def token(self, subject: str, valid: timedelta = timedelta(hours=1)) -> str:
        return self.tokens.issue(subject, valid=valid, operator=subject == OPERATOR)

    def credentials(self, subject: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(subject)}"} if subject else {}

    async def answer(self, document: str, subject: str | None = ADMIN, **variables: Any) -> dict[str, Any]:
        """The whole answer to an operation."""
        # In ASCII, so that halves of characters can be sent too.
        content = json.dumps({"query": document, "variables": variables})
        headers = {"Content-Type": "application/json", **self.credentials(subject)}
        response = await self.client.post("/graphql", content=content, headers=headers)
        body: dict[str, Any] = response.json()
        return body

    async def ask(self, document: str, subject: str | None = ADMIN, **variables: Any) -> Any:
        """The data of an operation that has no errors."""
        body = await self.answer(document, subject, **variables)
        assert "errors" not in body, body["errors"]
        return body["data"]

    async def refused(self, document: str, subject: str | None = ADMIN, **variables: Any) -> dict[str, Any]:
        """The one error of an operation: its message and its extensions."""
        body = await self.answer(document, subject, **variables)
        (error,) = body["errors"]
        assert "correlationId" in error["extensions"]
        return {"message": error["message"], **error["extensions"]}

    async def mutate(self, name: str, input: dict[str, Any], subject: str | None = ADMIN, image: str = "id") -> Any:
        """The payload of a mutation; of its image, those fields."""
        kind = name[0].upper() + name[1:]
        changed = "deletedImageId" if name == "deleteImage" else f"image {{ {image} }}"
        document = f"""mutation ($input: {kind}Input!) {{ {name}(input: $input) {{
            cursor userErrors {{ code message field hint }} {changed} }} }}"""
        return (await self.ask(document, subject, input=input))[name]

    async def mistake(
        self, name: str, input: dict[str, Any], subject: str = ADMIN, image: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The one entry of userErrors of a mutation that was refused, which has changed nothing.

        `image` is the payload's image.
        """
        before = await self.everything()
        payload = await self.mutate(name, input, subject)
        assert payload["cursor"] is None
        assert payload.get("image") == (image and {"id": image["id"]})
        assert payload.get("deletedImageId") is None
        assert await self.everything() == before
        (mistake,) = payload["userErrors"]
        found: dict[str, Any] = mistake
        return found

    # ------------------------------------------------------------ images on their way

    def creation(self, **given: Any) -> dict[str, Any]:
        """The input of createImage: what is not given is a raw disk of one MiB."""
        upload = {"fileName": "disk.raw", "size": MIB} | given.pop("upload", {})
        return {"projectId": self.alpha, "name": "disk", "source": {"upload": upload}} | given

    async def create(self, subject: str = ADMIN, **given: Any) -> dict[str, Any]:
        """A new image, with its upload and the requests of its parts."""
        payload = (await self.ask(CREATE, subject, input=self.creation(**given)))["createImage"]
        assert payload["userErrors"] == []
        image: dict[str, Any] = payload["image"]
        return image

    async def send(self, image: dict[str, Any], content: bytes, numbers: Iterable[int] | None = None) -> None:
        """Send parts of an upload, by their numbers, or all of them."""
        size = image["upload"]["partSize"]
        for part in image["upload"]["parts"]["nodes"]:
            if numbers is None or part["number"] in numbers:
                start = (part["number"] - 1) * size
                response = await self.client.put(part["request"]["url"], content=content[start : start + part["size"]])
                assert response.status_code == 200, response.text

    async def uploaded(self, content: bytes = b"\1" * MIB, subject: str = ADMIN, **given: Any) -> dict[str, Any]:
        """A new image all of whose bytes are there: it waits for a worker."""
        upload = {"size": len(content)} | given.pop("upload", {})
        image = await self.create(subject, upload=upload, **given)
        await self.send(image, content)
        payload = await self.mutate("completeUpload", {"uploadId": image["upload"]["id"]}, subject)
        assert payload["userErrors"] == []
        return image

    async def claim(self, image_id: str, kind: JobKind = JobKind.CONVERT) -> Claim[Any]:
        """Take a job of an image as a worker does."""
        query = select(Job.id).where(Job.image_id == image_id, Job.kind == kind, col(Job.state) != JobState.DONE)
        async with self.database.read() as session:
            job_id = (await session.execute(query)).scalar_one()
        claim = await claimed(self.database, job_id)
        assert claim is not None
        return claim

    async def begun(self, image_id: str) -> tuple[Claim[Any], Assignment]:
        """An image that a worker has taken up: it is SAVING."""
        claim = await self.claim(image_id)
        assignment = await conversions.begin(self.catalogue, claim)
        assert assignment is not None
        return claim, assignment

    async def active(self, content: bytes = b"\1" * MIB, *, virtual_size: int = GIB, **given: Any) -> dict[str, Any]:
        """An ACTIVE image whose qcow2 are some bytes."""
        image = await self.uploaded(content, **given)
        claim, assignment = await self.begun(image["id"])
        path = self.store.path(assignment.result_key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        await conversions.succeed(self.catalogue, claim, assignment, outcome(virtual_size, len(content)))
        return image

    async def failed(self, *, retriable: bool = True, **given: Any) -> dict[str, Any]:
        """An image whose conversion ended in ERROR."""
        image = await self.uploaded(**given)
        claim, assignment = await self.begun(image["id"])
        failure = ImageFailed(FailureCode.CORRUPT_IMAGE, "It is broken.", "Fix it.", retriable=retriable)
        await conversions.fail(self.catalogue, claim, assignment, failure)
        return image

    async def make_public(self, image_id: str) -> None:
        """Show an image to every project, as nothing in the API does yet."""
        async with self.database.transaction() as tx:
            image = await tx.session.get_one(Image, image_id)
            await images.change(tx, image, [Aspect.VISIBILITY], visibility=ImageVisibility.PUBLIC)

    async def refused_early(self, **given: Any) -> dict[str, Any]:
        """An image whose upload was refused for its first bytes, while the rest was missing."""
        image = await self.create(**{"upload": {"size": 49 * MIB}} | given)
        await self.send(image, bytes(49 * MIB), [1])
        claim = await self.claim(image["id"], JobKind.INSPECT_HEAD)
        failure = ImageFailed(FailureCode.FORMAT_MISMATCH, "It is gzip.", "Unpack it.")
        await conversions.refuse_early(self.catalogue, claim, failure)
        return image

    async def project(self) -> str:
        """A new project in which ADMIN is one."""
        name = f"project {next(_NUMBERS)}"
        (made,) = await members.create_organization(self.database, "demo", [name], ADMIN)
        return made.id

    async def stock(self, project_id: str, *rows: dict[str, Any]) -> list[str]:
        """Put images into a project as rows alone, one millisecond after the other; returns their ids."""
        async with self.database.transaction() as tx:
            stocked = [_row(project_id, at, values) for at, values in enumerate(rows)]
            tx.session.add_all(stocked)
        return [image.id for image in stocked]

    # ------------------------------------------------------------ looking

    async def everything(self) -> dict[str, list[str]]:
        """Every row of what the API can change, by table, and every file of the store."""
        return {**await self.rows(_CHANGED_BY_THE_API), "files": self.files()}

    async def rows(self, tables: Iterable[str]) -> dict[str, list[str]]:
        """The rows of tables, each as JSON, read by one statement."""
        selects = [f"SELECT '{name}' AS name, {self._as_json(name)} AS line FROM {name}" for name in tables]  # noqa: S608
        found: dict[str, list[str]] = {name: [] for name in tables}
        async with self.database.read() as session:
            for name, line in await session.execute(text(" UNION ALL ".join(selects) + " ORDER BY name, line")):
                found[name].append(line)
        return found

    def _as_json(self, table: str) -> str:
        if self.database.many_writers:
            return f"to_json({table}.*)::text"
        return f"json_array({', '.join(TABLES.tables[table].columns.keys())})"

    def files(self) -> list[str]:
        """Every file of the object store, but for the folders of jobs."""
        root = str(self.settings.objects_path)
        found = [os.path.join(folder[len(root) + 1 :], name) for folder, _, names in os.walk(root) for name in names]
        return sorted(path for path in found if not path.startswith("work/"))

    async def image(self, image_id: str) -> Image:
        async with self.database.read() as session:
            return await session.get_one(Image, image_id)

    async def upload(self, upload_id: str) -> Upload:
        async with self.database.read() as session:
            return await session.get_one(Upload, upload_id)

    async def source(self, image: dict[str, Any]) -> Source:
        """What an image is converted from."""
        return (await self.upload(image["upload"]["id"])).source

    async def source_key(self, image: dict[str, Any]) -> str:
        """The key of the bytes that an image was, or is being, uploaded as."""
        return (await self.source(image)).key

    async def blob(self, image: dict[str, Any]) -> Blob:
        """The blob of an image that is ACTIVE."""
        async with self.database.read() as session:
            return await session.get_one(Blob, (await session.get_one(Image, image["id"])).blob_id)

    async def events(self, subject_id: str) -> list[Event]:
        async with self.database.read() as session:
            query = select(Event).where(Event.subject_id == subject_id).order_by(col(Event.seq))
            return list((await session.execute(query)).scalars())

    async def all_jobs(self) -> list[Job]:
        async with self.database.read() as session:
            return list((await session.execute(select(Job).order_by(col(Job.id)))).scalars())

    async def idle(self) -> bool:
        """Whether every job is done."""
        return all(job.state == JobState.DONE for job in await self.all_jobs())

    async def change(self, row: type[Any], id_: str, **values: Any) -> None:
        """Change a row by hand, as only a test may."""
        async with self.database.transaction() as tx:
            found = await tx.session.get_one(row, id_)
            for name, value in values.items():
                setattr(found, name, value)

    @property
    def catalogue(self) -> Catalogue:
        """What the use cases work on, as another process has it."""
        return Catalogue(self.database, self.store, self.settings)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Workers run during the block."""
        workers = self.workers()
        await asyncio.to_thread(workers.__enter__)
        try:
            yield
        finally:
            await asyncio.to_thread(workers.__exit__)


_CHANGED_BY_THE_API = (
    "project", "membership", "image", "image_share", "storage_entry", "source", "upload", "job", "event",
    "idempotency_key", "blob", "server", "volume", "capture",
)  # fmt: skip
_NUMBERS = itertools.count(1)
MORNING = datetime(2026, 1, 31, 6, tzinfo=UTC)


def _row(project_id: str, at: int, values: dict[str, Any]) -> Image:
    size, name = values.get("virtual_size"), values.get("name", "disk")
    given = {
        "name": name,
        "name_key": name_key(name),
        "size_key": -1 if size is None else size,
        "created_at": MORNING + timedelta(milliseconds=at),
    }
    return Image(
        project_id=project_id, created_by=ADMIN, source_file_name="disk.raw", source_size=MIB, **given | values
    )


async def claimed(database: Database, job_id: str, lease: timedelta = LEASE) -> Claim[Any] | None:
    """Take a job by its id, as a worker takes the one that has waited longest."""
    async with database.transaction() as tx:
        return await jobs.claim_by_id(tx, job_id, lease)


def outcome(virtual_size: int = GIB, stored_size: int = MIB) -> Outcome:
    """What a conversion says that came out."""
    return Outcome(Way.COPY, DiskFormat.RAW, virtual_size, stored_size, stored_size)


@asynccontextmanager
async def running_gateway(data: Path, **given: Any) -> AsyncIterator[Gateway]:
    """A gateway over a data folder of its own, and a database that has its tables. `given` are settings."""
    settings = Settings(data=data, secret=SECRET, **{"progress_seconds": 0.001} | given)
    broker, wakeups = local_broker(), LocalWakeups()
    queue = DramatiqQueue(broker)
    channels = Messaging(broker, queue, wakeups)
    app, endpoint = create_app(settings, channels)
    database, store = (
        Database(settings.database_address, channels.announce),
        FolderStore(settings.objects_path, SECRET.encode()),
    )
    async with AsyncExitStack() as stack:
        stack.callback(store.close)
        stack.push_async_callback(database.close)
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://gateway"))
        gateway = Gateway(
            settings, app, endpoint, database, store, wakeups, queue,
            lambda: Workers(settings, broker, wakeups, channels.announce), client, bells=channels.bells,
        )  # fmt: skip
        alpha, beta = await members.create_organization(database, "demo", ["alpha", "beta"], STRANGER)
        gateway.alpha, gateway.beta = alpha.id, beta.id
        await people(gateway)
        yield gateway


async def people(gateway: Gateway) -> None:
    """Give everybody the roles that they have in tests."""
    async with gateway.database.transaction() as tx:
        await tx.session.execute(text("DELETE FROM membership WHERE project_id = :alpha"), {"alpha": gateway.alpha})
    for subject, role in ROLES.items():
        await members.grant_role(gateway.database, "alpha", subject, role)
