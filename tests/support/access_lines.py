"""The operations of the lines in `access_table`: what they read, watch or change, and the expected result.

Names with a dollar are replaced in every cell:
  $image, $name, $upload, $project, $organization   the image, its project and organization
  $share, $offer, $declined, $invited               its shares: accepted, offered, declined; the project of the offer
  $place                                            the caller's own project
  $theirs, $another, $beyond                        other projects: one that the admin of the image's project
                                                    administers too, one that they don't, one of another organization
  $me, $other, $subject                             the ids of the caller and of another user; the caller's `sub`
  $admin, $member, $reader                          the `sub` of the members of the image's project
  $copy, $orphan                                    copies in `launching`, of a shared image, and of one withdrawn
  $server, $stopped, $volume                        a server of the image's project that runs, one that is stopped, and
                                                    a volume that no server uses
  $boot, $snapshot                                  the volume that the running server boots from, and a snapshot of it
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.sizes import GIB

PROJECTS = {"project", "place", "theirs", "another", "beyond"}
# Ids and a name that don't exist, by the names with a dollar.
ABSENT = {
    **dict.fromkeys(("image", "copy", "orphan", "snapshot"), f"img_{'0' * 26}"),
    **dict.fromkeys(("share", "offer", "declined"), f"shr_{'0' * 26}"),
    **dict.fromkeys((*PROJECTS, "invited"), f"prj_{'0' * 26}"),
    **dict.fromkeys(("server", "stopped"), f"srv_{'0' * 26}"),
    "upload": f"upl_{'0' * 26}",
    **dict.fromkeys(("volume", "boot"), f"vol_{'0' * 26}"),
    "organization": f"org_{'0' * 26}",
    "name": "a name that no image has",
    "me": "usr_absent",
    "other": "usr_absent",
}
_NAMED = re.compile(r"\$(\w+)")


def names_in(template: Any) -> list[str]:
    """The names with a dollar in a document, or in an input."""
    return list(dict.fromkeys(_NAMED.findall(str(template))))


def filled(template: Any, names: Mapping[str, str]) -> Any:
    """An input, or an expected answer, with its names filled in."""
    if isinstance(template, dict):
        return {key: filled(value, names) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, names) for value in template]
    return names[template[1:]] if isinstance(template, str) and template.startswith("$") else template


def document_of(kind: str, field: str) -> str:
    """An operation with one field, `it`; the names with a dollar are its variables."""
    variables = ", ".join(f"${name}: {_TYPES.get(name, 'ID!')}" for name in names_in(field))
    return f"{kind} {f'({variables})' if variables else ''} {{ it: {field} }}"


_TYPES = {"name": "String!", "start": "EventCursor!"}


def _seen(value: Any) -> str:
    return "." if value is None else "+" if value else "0"


def _permissions(can: Mapping[str, bool]) -> str:
    return "".join(name[0].upper() for name in ("launch", "edit", "share", "delete") if can[name]) or "no"


def _role(role: str | None) -> str:
    return role[0] if role else "."


def _yes(value: bool) -> str:
    return "yes" if value else "no"


@dataclass(frozen=True)
class Read:
    """A field to read, the path below it to the value to compare, and how the table shows that value.

    `state` is the state of the image to read.
    """

    text: str
    path: str = ""
    show: Callable[[Any], str] = _seen
    state: str = "active"

    @property
    def document(self) -> str:
        return document_of("query", self.text)


def _of_image(field: str, path: str, show: Callable[[Any], str] = _seen, state: str = "active") -> Read:
    return Read(f"image(by: {{id: $image}}) {{ {field} }}", path, show, state)


def _of_project(field: str, path: str, show: Callable[[Any], str] = _seen) -> Read:
    return Read(f"project(id: $project) {{ {field} }}", path, show)


def _of_share(field: str, path: str, name: str = "share", show: Callable[[Any], str] = _seen) -> Read:
    return Read(f"node(id: ${name}) {{ ... on ImageShare {{ {field} }} }}", path, show)


def _of_copy(name: str) -> Read:
    source = "source { ... on CopySource { image { id } } }"
    return Read(f"node(id: ${name}) {{ ... on Image {{ {source} }} }}", "source image")


_EVENTS = "{ nodes { imageId } }"
_PROJECT_EVENTS = "{ nodes { ... on ImageEvent { imageId } ... on ServerEvent { serverId } } }"
_IMAGES = "first: 9, filter: {nameContains: $name}) { nodes { id } totalCount }"
_USAGE = 'usage(from: "2026-01-01T00:00:00Z", to: "2026-02-01T00:00:00Z") { gibHours cost { amount } }'
_REQUEST = "parts(first: 1) { nodes { request { url } } }"
READS = {
    "image by id": Read("image(by: {id: $image}) { id }", "id"),
    "image by name, in its project": Read("image(by: {name: {projectId: $project, name: $name}}) { id }", "id"),
    "image by name, in one's own project": Read("image(by: {name: {projectId: $place, name: $name}}) { id }", "id"),
    "node of an image": Read("node(id: $image) { id }", "id"),
    "nodes": Read("nodes(ids: [$image]) { id }", "0 id"),
    "images of its project": Read(f"images(projectId: $project, {_IMAGES}", "nodes"),
    "images of one's own project": Read(f"images(projectId: $place, {_IMAGES}", "nodes"),
    "imageEvents of its project": Read(
        f"imageEvents(projectId: $project, imageId: $image, first: 9) {_EVENTS}", "nodes"
    ),
    "imageEvents of its project, backward": Read(
        f"imageEvents(projectId: $project, imageId: $image, last: 9) {_EVENTS}", "nodes"
    ),
    "imageEvents of one's own project": Read(
        f"imageEvents(projectId: $place, imageId: $image, first: 9) {_EVENTS}", "nodes"
    ),
    "imageEvents of one's own project, backward": Read(
        f"imageEvents(projectId: $place, imageId: $image, last: 9) {_EVENTS}", "nodes"
    ),
    "projectEvents of its project": Read(
        f"projectEvents(projectId: $project, subjectId: $image, first: 9) {_PROJECT_EVENTS}", "nodes"
    ),
    "projectEvents of one's own project": Read(
        f"projectEvents(projectId: $place, subjectId: $image, last: 9) {_PROJECT_EVENTS}", "nodes"
    ),
    "projectEvents of a server": Read(
        f"projectEvents(projectId: $project, subjectId: $server, first: 9) {_PROJECT_EVENTS}", "nodes"
    ),
    "viewerCan of an image": _of_image("viewerCan { launch edit share delete }", "viewerCan", _permissions),
    "project of an image": _of_image("project { id }", "project id"),
    "shares of an image": _of_image("shares(first: 9) { nodes { id } totalCount }", "shares"),
    "download of an image": _of_image("download { url }", "download url"),
    "monthlyCost of an image": _of_image("monthlyCost { amount }", "monthlyCost"),
    "source of an image": _of_image("source { ... on UploadSource { fileName } }", "source fileName"),
    "usedBy of an image": _of_image("usedBy(first: 9) { nodes { id } totalCount }", "usedBy"),
    "lastLaunchedAt of an image": _of_image("lastLaunchedAt", "lastLaunchedAt"),
    "upload of an image": _of_image("upload { id }", "upload id", state="uploading"),
    "progress of an image": _of_image("progress { phase }", "progress", state="uploading"),
    "node of an upload": Read("node(id: $upload) { id }", "id", state="uploading"),
    "request of a part of an upload": Read(
        f"node(id: $upload) {{ ... on ImageUpload {{ {_REQUEST} }} }}", "parts nodes 0 request", state="uploading"
    ),
    "node of a share": Read("node(id: $share) { id }", "id"),
    "node of a share, offered": Read("node(id: $offer) { id }", "id"),
    "node of a share, declined": Read("node(id: $declined) { id }", "id"),
    "image of a share": _of_share("image { id }", "image id"),
    "image of a share, offered": _of_share("image { id }", "image id", "offer"),
    "imageName of a share, offered": _of_share("imageName", "imageName", "offer"),
    "project of a share": _of_share("project { id name }", "project id"),
    "quota of the project of a share": _of_share("project { quota { snapshotsPerVolume } }", "project quota"),
    "members of the project of a share": _of_share(
        "project { members(first: 9) { nodes { subject } } }", "project members nodes"
    ),
    "usage of the project of a share": _of_share(f"project {{ {_USAGE} }}", "project usage"),
    "viewerRole of the project of a share": _of_share("project { viewerRole }", "project viewerRole", show=_role),
    "shareOffers of the project of a share": _of_share(
        "project { shareOffers(first: 9) { nodes { id } } }", "project shareOffers"
    ),
    "acceptedShares of the project of a share": _of_share(
        "project { acceptedShares(first: 9) { nodes { id } } }", "project acceptedShares"
    ),
    "shareOffers of a project that has some": Read(
        "project(id: $invited) { shareOffers(first: 9) { nodes { id } } }", "shareOffers nodes"
    ),
    "node of a server": Read("node(id: $server) { id }", "id"),
    "bootVolume of a server": Read("node(id: $server) { ... on Server { bootVolume { id } } }", "bootVolume id"),
    "image of a server": Read("node(id: $server) { ... on Server { image { id } } }", "image id"),
    "node of a volume": Read("node(id: $volume) { id }", "id"),
    "snapshots of a volume": Read(
        "node(id: $boot) { ... on Volume { snapshots(first: 9) { nodes { id } totalCount } } }", "snapshots"
    ),
    "volume of a snapshot": Read("node(id: $snapshot) { ... on Image { volume { id } } }", "volume id"),
    "promotedTo of a snapshot": Read(
        "node(id: $snapshot) { ... on Image { promotedTo(first: 9) { nodes { id } totalCount } } }", "promotedTo"
    ),
    "source of a copy": _of_copy("copy"),
    "source of a copy, out of sight": _of_copy("orphan"),
    "project": _of_project("id", "id"),
    "node of a project": Read("node(id: $project) { id }", "id"),
    "quota of a project": _of_project("quota { snapshotsPerVolume }", "quota"),
    "members of a project": _of_project("members(first: 9) { nodes { subject } }", "members nodes"),
    "usage of a project": _of_project(_USAGE, "usage"),
    "acceptedShares of a project": _of_project("acceptedShares(first: 9) { nodes { id } }", "acceptedShares"),
    "shareOffers of a project": _of_project("shareOffers(first: 9) { nodes { id } }", "shareOffers"),
    "servers of a project": _of_project("servers(first: 9) { nodes { id } totalCount }", "servers"),
    "volumes of a project": _of_project("volumes(first: 9) { nodes { id } totalCount }", "volumes"),
    "viewerRole of a project": _of_project("viewerRole", "viewerRole", _role),
    "organization of a project": _of_project("organization { id }", "organization id"),
    "node of an organization": Read("node(id: $organization) { id }", "id"),
    "viewerIsOwner of an organization": Read(
        "node(id: $organization) { ... on Organization { viewerIsOwner } }", "viewerIsOwner", _yes
    ),
    "viewer": Read("viewer { id }", "id"),
    "node of the viewer": Read("node(id: $me) { id }", "id"),
    "node of another user": Read("node(id: $other) { id }", "id"),
    "eventCursor": Read("eventCursor"),
}
_FEED = "after: $start) { ... on ImageEvent { imageId } }"
WATCHES = {
    "image": Read("image(id: $image) { id }"),
    "imageEvents of its project": Read(f"imageEvents(projectId: $project, {_FEED}"),
    "imageEvents of one's own project": Read(f"imageEvents(projectId: $place, {_FEED}"),
    "projectEvents of its project": Read(f"projectEvents(projectId: $project, {_FEED}"),
    "projectEvents of one's own project": Read(f"projectEvents(projectId: $place, {_FEED}"),
    "server": Read("server(id: $server) { id }"),
}


@dataclass(frozen=True)
class Change:
    """A mutation, its input, the field of the input that names the object to change, and the state afterwards.

    `check` reads a node as an operator; afterwards it returns what the object `becomes`, or nothing if that is None.
    $made is the id in the payload. `absent` replaces names of the input if the project besides the object does not
    exist.
    """

    mutation: str
    input: Mapping[str, Any]
    thing: str
    check: str
    becomes: Mapping[str, Any] | None
    state: str = "active"
    conflict: str | None = None
    absent: Mapping[str, str] = field(default_factory=dict)


def _created(input: Mapping[str, Any], thing: str, fields: str, becomes: Mapping[str, Any]) -> Change:
    return Change(
        "createImage", {"name": "new", **input}, thing, f"node(id: $made) {{ ... on Image {{ name {fields} }} }}",
        {"name": "new", **becomes},
    )  # fmt: skip


def _copied(where: str) -> Change:
    return _created(
        {"projectId": where, "source": {"image": {"imageId": "$image"}}},
        "source.image.imageId",
        "status project { id } source { ... on CopySource { imageName image { id } } }",
        {"status": "ACTIVE", "project": {"id": where}, "source": {"imageName": "$name", "image": {"id": "$image"}}},
    )


def _made_of(source: Mapping[str, Any], thing: str) -> Change:
    """An image of a server or a snapshot in the caller's own project."""
    wish = {"projectId": "$place", "source": source}
    return _created(wish, f"source.{thing}", "project { id }", {"project": {"id": "$place"}})


def _image(
    mutation: str, fields: str, becomes: Mapping[str, Any] | None, state: str = "active", **given: Any
) -> Change:
    check = f"node(id: $image) {{ ... on Image {{ {fields} }} }}"
    return Change(mutation, {"imageId": "$image"} | given, "imageId", check, becomes, state)


def _upload(mutation: str, fields: str, becomes: Mapping[str, Any]) -> Change:
    check = f"node(id: $image) {{ ... on Image {{ {fields} }} }}"
    return Change(mutation, {"uploadId": "$upload"}, "uploadId", check, becomes, "uploading")


def _shared(project: str, *, offer: bool = False, absent: Mapping[str, str] | None = None) -> Change:
    return Change(
        "shareImage",
        {"imageId": "$image", "projectId": project, "grant": "LAUNCH", "offer": offer},
        "imageId",
        "node(id: $made) { ... on ImageShare { image { id } project { id } grant state sharedBy } }",
        {"image": {"id": "$image"}, "project": {"id": project}, "grant": "LAUNCH", "state": "$state"}
        | {"sharedBy": "$subject"},
        absent=absent or {},
    )


def _share(mutation: str, name: str, becomes: Mapping[str, Any] | None, **given: Any) -> Change:
    check = f"node(id: ${name}) {{ ... on ImageShare {{ grant state }} }}"
    state = "declined" if name == "declined" else "with shares"
    return Change(mutation, {"shareId": f"${name}"} | given, "shareId", check, becomes, state)


def _member(mutation: str, becomes: Sequence[str], subject: str, **given: Any) -> Change:
    return Change(
        mutation,
        {"projectId": "$project", "subject": subject} | given,
        "projectId",
        "node(id: $project) { ... on Project { members(first: 9) { nodes { subject } } } }",
        {"members": {"nodes": [{"subject": subject} for subject in becomes]}},
        conflict="subject",
    )


def _launched(where: str) -> Change:
    return Change(
        "launchServer",
        {"projectId": where, "imageId": "$image", "name": "new"},
        "imageId",
        "node(id: $made) { ... on Server { name status project { id } image { id } createdBy } }",
        {"name": "new", "status": "STARTING", "project": {"id": where}, "image": {"id": "$image"}}
        | {"createdBy": "$subject"},
    )


def _server(mutation: str, name: str, becomes: Mapping[str, Any] | None) -> Change:
    check = f"node(id: ${name}) {{ ... on Server {{ status revision }} }}"
    return Change(mutation, {"serverId": f"${name}"}, "serverId", check, becomes)


_LIMITS = "quota { customImages { limit } imageStorage { limit } snapshotsPerVolume }"
_STAFF = ["$admin", "$member", "$reader"]
CHANGES = {
    "createImage": _created(
        {"projectId": "$project", "source": {"upload": {"fileName": "disk.raw", "size": 512}}},
        "projectId",
        "status project { id }",
        {"status": "QUEUED", "project": {"id": "$project"}},
    ),
    "createImage, a copy beside it": _copied("$project"),
    "createImage, a copy in one's own project": _copied("$place"),
    "createImage, of a server": _made_of({"server": {"serverId": "$stopped"}}, "server.serverId"),
    "createImage, of a snapshot": _made_of({"snapshot": {"snapshotId": "$snapshot"}}, "snapshot.snapshotId"),
    "createSnapshot": Change(
        "createSnapshot",
        {"volumeId": "$boot", "name": "new"},
        "volumeId",
        "node(id: $made) { ... on Image { name type status project { id } volume { id } } }",
        {"name": "new", "type": "SNAPSHOT", "status": "SAVING", "project": {"id": "$project"}}
        | {"volume": {"id": "$boot"}},
    ),
    "completeUpload": _upload("completeUpload", "status upload { id }", {"status": "QUEUED", "upload": None}),
    "abortUpload": _upload(
        "abortUpload", "status failure { code }", {"status": "ERROR", "failure": {"code": "UPLOAD_ABORTED"}}
    ),
    "retryImage": _image("retryImage", "status failure { code }", {"status": "SAVING", "failure": None}, "failed"),
    "updateImage, name": _image("updateImage", "name", {"name": "other"}, name="other"),
    "updateImage, os": _image(
        "updateImage", "os { family }", {"os": {"family": "rocky"}}, os={"family": "rocky", "version": "9"}
    ),
    "updateImage, labels": _image(
        "updateImage",
        "labels { key value }",
        {"labels": [{"key": "a", "value": "1"}]},
        labels=[{"key": "a", "value": "1"}],
    ),
    "updateImage, protected": _image("updateImage", "protected", {"protected": True}, protected=True),
    "updateImage, not protected": _image(
        "updateImage", "protected", {"protected": False}, "protected", protected=False
    ),
    "deleteImage": _image("deleteImage", "name", None),
    "shareImage, with a project of theirs": _shared("$theirs"),
    "shareImage, with another one": _shared("$another"),
    "shareImage, with an offer": _shared("$another", offer=True),
    "shareImage, with another organization": _shared("$beyond"),
    "shareImage, with what is no project": _shared("$upload", absent={"upload": "prj_nothing"}),
    "updateImageShare": _share(
        "updateImageShare", "share", {"grant": "LAUNCH_AND_EDIT", "state": "ACCEPTED"}, grant="LAUNCH_AND_EDIT"
    ),
    "updateImageShare, offered": _share(
        "updateImageShare", "offer", {"grant": "LAUNCH_AND_EDIT", "state": "OFFERED"}, grant="LAUNCH_AND_EDIT"
    ),
    "acceptImageShare, offered": _share("acceptImageShare", "offer", {"grant": "LAUNCH", "state": "ACCEPTED"}),
    "acceptImageShare, accepted": _share("acceptImageShare", "share", {"grant": "LAUNCH", "state": "ACCEPTED"}),
    "acceptImageShare, declined": _share("acceptImageShare", "declined", None),
    "declineImageShare, offered": _share("declineImageShare", "offer", {"grant": "LAUNCH", "state": "DECLINED"}),
    "declineImageShare, accepted": _share("declineImageShare", "share", {"grant": "LAUNCH", "state": "DECLINED"}),
    "revokeImageShare": _share("revokeImageShare", "share", None),
    "revokeImageShare, offered": _share("revokeImageShare", "offer", None),
    "launchServer beside it": _launched("$project"),
    "launchServer in one's own project": _launched("$place"),
    "startServer": _server("startServer", "stopped", {"status": "STARTING", "revision": 2}),
    "startServer, running": _server("startServer", "server", {"status": "RUNNING", "revision": 1}),
    "stopServer": _server("stopServer", "server", {"status": "RUNNING", "revision": 2}),
    "deleteServer": _server("deleteServer", "server", None),
    "createVolume": Change(
        "createVolume",
        {"projectId": "$project", "name": "new", "sizeGib": 3},
        "projectId",
        "node(id: $made) { ... on Volume { name size project { id } } }",
        {"name": "new", "size": 3 * GIB, "project": {"id": "$project"}},
    ),
    "deleteVolume": Change(
        "deleteVolume", {"volumeId": "$volume"}, "volumeId", "node(id: $volume) { ... on Volume { name } }", None
    ),
    "setProjectQuota": Change(
        "setProjectQuota",
        {"projectId": "$project", "customImages": 77, "imageStorageGib": 88, "snapshotsPerVolume": 99},
        "projectId",
        f"node(id: $project) {{ ... on Project {{ {_LIMITS} }} }}",
        {"quota": {"customImages": {"limit": 77}, "imageStorage": {"limit": 88 * GIB}, "snapshotsPerVolume": 99}},
    ),
    "setProjectMember": _member("setProjectMember", [*_STAFF, "zoe"], "zoe", role="READER"),
    "setProjectMember, the last admin": _member("setProjectMember", [], "$admin", role="MEMBER"),
    "removeProjectMember": _member("removeProjectMember", ["$admin", "$member"], "$reader"),
    "removeProjectMember, the last admin": _member("removeProjectMember", [], "$admin"),
}
