"""Two organizations with every kind of caller, and images in every state, for the tables in `access_table`."""

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import sqlalchemy

from app.catalog import members
from app.catalog.feed import event_log
from app.catalog.feed.cursors import EPOCH_BYTES, Cursors, Mark
from app.lifecycle import JobKind, ProjectRole, ServerGoal, ServerStatus
from app.models import TABLES, Server
from tests.support.access_cells import CALLERS
from tests.support.gateway import OPERATOR, Gateway
from tests.support.host_bench import capture
from tests.support.serving_servers import add_host, boot_volume

ACME, GLOBEX = ("home", "launching", "editing", "asked", "aside"), ("abroad", "overseas", "islands")
# Admins of further projects, by project.
ADMINS = {
    "aside": ("admin", "launch-admin", "edit-admin"),
    "overseas": ("abroad-admin",),
    "islands": ("islander",),
}
STAFF = {"abroad-member": ProjectRole.MEMBER, "abroad-reader": ProjectRole.READER}
CONTENT = b"\1" * 512
# By kind of image: its project, and the projects that shareImage names.
PLACES = {
    "own": {"project": "home", "theirs": "aside", "another": "asked", "beyond": "abroad", "invited": "asked"},
    "shared": {"project": "home", "theirs": "aside", "another": "asked", "beyond": "abroad", "invited": "asked"},
    "foreign": {"project": "abroad", "theirs": "overseas", "another": "islands", "beyond": "home"}
    | {"invited": "islands"},
}
PLACES["public"] = PLACES["foreign"]
# The field of a mutation's payload with the object that it changed.
RESULTS = {
    "deleteImage": "deletedImageId",
    "revokeImageShare": "revokedShareId",
    **dict.fromkeys(("shareImage", "updateImageShare", "acceptImageShare", "declineImageShare"), "share { id }"),
    **dict.fromkeys(("setProjectQuota", "setProjectMember", "removeProjectMember"), "project { id }"),
    **dict.fromkeys(("launchServer", "startServer", "stopServer"), "server { id }"),
    "deleteServer": "deletedServerId",
    "createVolume": "volume { id }",
    "deleteVolume": "deletedVolumeId",
    "createSnapshot": "snapshot { id }",
}


@dataclass
class World:
    """Two organizations with images in every state, as built, or as a mutation has changed them."""

    gateway: Gateway
    saved: Path
    ids: dict[str, str] = field(default_factory=dict)
    images: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    start: int = 0
    end: int = 0
    built: Mapping[str, Sequence[str]] = field(default_factory=dict)
    untouched: bool = False
    rows: dict[str, Sequence[dict[str, Any]]] = field(default_factory=dict)
    lines: Mapping[str, Sequence[str]] = field(default_factory=dict)
    files: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    # ------------------------------------------------------------ building

    async def build(self) -> None:
        """Create everything through the API, and save it."""
        self.start = await self.position()
        await self._found()
        await self._make_images()
        await self._share()
        await self._copy()
        await self._launch()
        for place in ("home", "launching", "editing", "asked", "abroad"):
            self.images["last", place] = await self.gateway.create(OPERATOR, projectId=self.ids[place], name="last")
        self.end = await self.position()
        await self._save()

    async def position(self) -> int:
        """The newest position in the feed."""
        async with self.gateway.database.read() as session:
            return await event_log.newest_position(session)

    def cursor(self, position: int) -> str:
        """The cursor of a position."""
        (row,) = self.rows["feed_epoch"]
        return Cursors(bytes.fromhex(row["key"])).text(Mark(bytes.fromhex(row["epoch"]), position))

    async def _found(self) -> None:
        database = self.gateway.database
        for organization, names, owner in (("acme", ACME, "owner"), ("globex", GLOBEX, None)):
            for project in await members.create_organization(database, organization, names, None, owner):
                self.ids |= {project.name: project.id, organization: project.organization_id}
        for caller in CALLERS.values():
            if caller.subject and caller.role:
                await members.grant_role(database, caller.place, caller.subject, caller.role)
        for name, subjects in ADMINS.items():
            for subject in subjects:
                await members.grant_role(database, name, subject, ProjectRole.ADMIN)
        for subject, role in STAFF.items():
            await members.grant_role(database, "abroad", subject, role)

    async def _make_images(self) -> None:
        gateway = self.gateway
        for kind, project in (("own", "home"), ("shared", "home"), ("foreign", "abroad"), ("public", "abroad")):
            given: dict[str, Any] = {"subject": OPERATOR, "projectId": self.ids[project]}
            for state in ("active", "protected", "with shares"):
                self.images[kind, state] = await gateway.active(CONTENT, name=f"{kind}-{state}", **given)
            await self.do("updateImage", imageId=self.images[kind, "protected"]["id"], protected=True)
            if kind != "shared":  # only what is ACTIVE can be shared
                upload: dict[str, Any] = {"upload": {"size": len(CONTENT)}, "name": f"{kind}-uploading"}
                self.images[kind, "uploading"] = await gateway.create(**given, **upload)
                await gateway.send(self.images[kind, "uploading"], CONTENT)
                self.images[kind, "failed"] = await gateway.failed(content=CONTENT, name=f"{kind}-failed", **given)
        for (kind, _), image in self.images.items():
            if kind == "public":
                await gateway.make_public(image["id"])
        self.images["shared", "with shares"] = self.images["shared", "active"]
        self.images["own", "with shares"] = self.images["own", "active"]

    async def _share(self) -> None:
        for state in ("active", "protected"):
            image = self.images["shared", state]["id"]
            given = await self.share(image, "launching", "LAUNCH")
            await self.share(image, "editing", "LAUNCH_AND_EDIT")
            offered = await self.share(image, "asked", "LAUNCH", "admin")
            self.ids |= {"shared offer" if state == "active" else "declined": offered}
            if state == "active":
                self.ids["shared share"] = given
        await self.do("declineImageShare", "asked-admin", shareId=self.ids["declined"])
        image = self.images["foreign", "with shares"]["id"]
        self.ids["foreign share"] = await self.share(image, "overseas", "LAUNCH")
        self.ids["foreign offer"] = await self.share(image, "islands", "LAUNCH", "abroad-admin")

    async def _copy(self) -> None:
        """Two copies in `launching`: of an image that it sees, and of one that it no longer sees, since renamed."""
        given: dict[str, Any] = {"subject": OPERATOR, "projectId": self.ids["home"], "name": "withdrawn"}
        self.images["withdrawn", "active"] = withdrawn = await self.gateway.active(CONTENT, **given)
        share = await self.share(withdrawn["id"], "launching", "LAUNCH")
        for name, image in (("copy", self.images["shared", "active"]), ("orphan", withdrawn)):
            source = {"image": {"imageId": image["id"]}}
            self.ids[name] = await self.do(
                "createImage", "launch-member", projectId=self.ids["launching"], name=name, source=source
            )
        await self.do("revokeImageShare", shareId=share)
        await self.do("updateImage", imageId=withdrawn["id"], name="renamed-since")

    async def _launch(self) -> None:
        """A host that is never waited for, and in the projects of images what there is of servers."""
        await add_host(self.gateway)
        self.gateway.settings.snapshot_seconds = 0.001
        for project, kind in (("home", "own"), ("abroad", "foreign")):
            given = {"projectId": self.ids[project], "name": "server"}
            image_id = self.images[kind, "active"]["id"]
            for name, status in (("server", ServerStatus.RUNNING), ("stopped", ServerStatus.STOPPED)):
                id_ = await self.do("launchServer", imageId=image_id, **given)
                await self.gateway.change(Server, id_, status=status, goal=ServerGoal(status.value))
                self.ids[f"{project} {name}"] = id_
            self.ids[f"{project} volume"] = await self.do("createVolume", sizeGib=1, **given)
            self.ids[f"{project} boot"] = boot = await boot_volume(self.gateway, {"id": self.ids[f"{project} server"]})
            self.ids[f"{project} snapshot"] = made = await self.do("createSnapshot", volumeId=boot, name="nightly")
            await capture(self.gateway.catalogue, await self.gateway.claim(made, JobKind.CAPTURE))

    async def share(self, image_id: str, project: str, grant: str, subject: str = OPERATOR) -> str:
        """Share an image, or offer it if necessary. Returns the share's id."""
        given = {"imageId": image_id, "projectId": self.ids[project], "grant": grant, "offer": True}
        return await self.do("shareImage", subject, **given)

    async def do(self, mutation: str, subject: str = OPERATOR, /, **given: Any) -> str:
        """Run a mutation. Returns the id of the object that it changed."""
        payload = (await self.gateway.ask(mutation_of(mutation), subject, input=given))["it"]
        assert payload["userErrors"] == []
        return made_by(mutation, payload)

    # ------------------------------------------------------------ restoring

    async def _save(self) -> None:
        async with self.gateway.database.read() as session:
            for table in TABLES.sorted_tables:
                found = await session.execute(sqlalchemy.select(table))
                self.rows[table.name] = [dict(row) for row in found.mappings()]
        self.lines = await self.gateway.rows(self.rows)
        shutil.copytree(self._objects, self.saved)
        self.files = _files(self._objects)
        self.built = await self.gateway.everything()
        self.untouched = True

    @property
    def _objects(self) -> Path:
        return self.gateway.settings.objects_path

    async def rebuild(self) -> None:
        """Restore everything as it was built, unless the last check found it untouched."""
        if not self.untouched:
            # As after any other restore, the positions of the feed are issued again.
            self.rows["feed_epoch"][0]["epoch"] = secrets.token_hex(EPOCH_BYTES)
            lines = await self.gateway.rows(self.rows)
            await self._restore([name for name in self.rows if lines[name] != self.lines[name] or name == "feed_epoch"])
            if _files(self._objects) != self.files:
                shutil.rmtree(self._objects)
                shutil.copytree(self.saved, self._objects)
            await self.assert_untouched()
        self.untouched = False

    async def _restore(self, names: Sequence[str]) -> None:
        """Replace the rows of some tables by the saved ones."""
        # Other tables refer to them, and in the end they do so rightly.
        unchecked = "SET LOCAL session_replication_role = replica"
        many_writers = self.gateway.database.many_writers
        async with self.gateway.database.transaction() as tx:
            await tx.session.execute(sqlalchemy.text(unchecked if many_writers else "PRAGMA defer_foreign_keys = ON"))
            for name in names:
                await tx.session.execute(TABLES.tables[name].delete())
                if self.rows[name]:
                    await tx.session.execute(TABLES.tables[name].insert(), self.rows[name])

    async def assert_untouched(self) -> None:
        """Assert that every row and every file is as it was built."""
        assert await self.gateway.everything() == self.built
        self.untouched = True

    # ------------------------------------------------------------ checking

    def names(self, kind: str, state: str, caller: str) -> dict[str, str]:
        """The values of the names with a dollar, in a cell."""
        image = self.images.get((kind, state)) or self.images[kind, "protected" if state == "declined" else "active"]
        staff = ("admin", "member", "reader")
        subject, place = CALLERS[caller].subject or "", CALLERS[caller].place
        project = PLACES[kind]["project"]
        return {
            **{name: self.ids[project] for name, project in PLACES[kind].items()},
            **{name: self.ids.get(f"{kind} {name}", "") for name in ("share", "offer")},
            **{name: self.ids[name] for name in ("declined", "copy", "orphan")},
            **{name: self.ids[f"{project} {name}"] for name in ("server", "stopped", "volume", "boot", "snapshot")},
            **{role: f"abroad-{role}" if project == "abroad" else role for role in staff},
            "image": image["id"],
            "name": image["name"],
            "upload": image["upload"]["id"],
            "place": self.ids[place],
            "organization": self.ids["globex" if project == "abroad" else "acme"],
            "subject": subject,
            "me": f"usr_{subject}",
            "other": "usr_islander",
            "start": self.cursor(self.start),
        }

    async def answer(self, document: str, caller: str, **variables: Any) -> dict[str, Any]:
        """The whole answer, without what differs between equal requests."""
        body = await self.gateway.answer(document, CALLERS[caller].subject, **variables)
        return anonymized(body)

    async def feeds(self) -> dict[str, list[tuple[str, str, str | None]]]:
        """The events since everything was built, by project, each with its image and its actor."""
        fields = "nodes { __typename imageId actor }"
        asked = [
            f'{name}: imageEvents(projectId: "{self.ids[name]}", after: $end, first: 50) {{ {fields} }}'
            for name in (*ACME, *GLOBEX)
        ]
        # The cursor is a variable, so that the gateway validates the document once.
        document = f"query ($end: EventCursor!) {{ {' '.join(asked)} }}"
        found = await self.gateway.ask(document, OPERATOR, end=self.cursor(self.end))
        return {
            name: [(event["__typename"], event["imageId"], event["actor"]) for event in feed["nodes"]]
            for name, feed in found.items()
        }


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder in a folder, with size and time of the last change of the files."""
    found = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*")}
    return {name: (0, 0) if S_ISDIR(stat.st_mode) else (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def anonymized(body: dict[str, Any]) -> dict[str, Any]:
    """An answer without its correlation ids and its cost."""
    for error in body.get("errors", ()):
        assert error["extensions"].pop("correlationId")
    body.pop("extensions", None)
    return body


def mutation_of(name: str) -> str:
    kind, result = name[0].upper() + name[1:], RESULTS.get(name, "image { id }")
    return f"""mutation ($input: {kind}Input!) {{ it: {name}(input: $input) {{
        cursor userErrors {{ code message field hint }} query {{ __typename }} {result} }} }}"""


def made_by(mutation: str, payload: Mapping[str, Any]) -> str:
    """The id of the object that a mutation changed; empty if it was refused."""
    result = payload[RESULTS.get(mutation, "image").split()[0]]
    return str(result["id"]) if isinstance(result, dict) else result or ""
