"""What a gateway answers to the client's documents, complete: of each test, only what matters to it is said."""

from typing import Any


def image(image_id: str = "img_1", status: str = "ACTIVE", **fields: Any) -> dict[str, Any]:
    """The fields of `ImageFields`."""
    known: dict[str, Any] = {
        "id": image_id,
        "name": "disk",
        "type": "CUSTOM",
        "status": status,
        "visibility": "PROJECT",
        "architecture": "X86_64",
        "revision": 1,
        "protected": False,
        "warnings": [],
        "os": None,
        "virtualSize": None,
        "minBootDiskGib": None,
        "storedSize": None,
        "sha256": None,
        "labels": [],
        "project": None,
        "source": None,
        "volume": None,
        "viewerCan": {"launch": True, "edit": True, "share": True, "delete": True},
        "progress": None,
        "failure": None,
        "createdAt": "2026-01-01T00:00:00Z",
        "updatedAt": "2026-01-01T00:00:00Z",
    }
    return known | fields


def found_image(**fields: Any) -> dict[str, Any]:
    """The fields that `images show` asks for."""
    return image(**({"monthlyCost": None, "bootReadiness": None, "bootChecked": None} | fields))


def share(number: int = 1, **fields: Any) -> dict[str, Any]:
    """The fields of `ShareFields`."""
    known: dict[str, Any] = {
        "id": f"shr_{number}",
        "grant": "LAUNCH",
        "state": "ACCEPTED",
        "revision": 1,
        "sharedBy": "ada",
        "imageName": "web",
        "image": None,
        "project": {"id": f"prj_{number}", "name": f"project {number}"},
        "createdAt": "2026-01-01T00:00:00Z",
        "updatedAt": "2026-01-01T00:00:00Z",
    }
    return known | fields


def event(typename: str = "ImageCreated", cursor: str = "c1", **fields: Any) -> dict[str, Any]:
    """What all events have, and the fields of one type."""
    known: dict[str, Any] = {
        "__typename": typename,
        "cursor": cursor,
        "occurredAt": "T",
        "actor": "ada",
        "imageId": "img_1",
        "image": {"id": "img_1", "name": "web", "status": "ACTIVE"},
    }
    return known | fields


def page_info(**fields: Any) -> dict[str, Any]:
    """The only page of a list."""
    return {"hasNextPage": False, "endCursor": None, "hasPreviousPage": False, "startCursor": None} | fields


def page(*nodes: dict[str, Any], more: str | None = None) -> dict[str, Any]:
    """A page of a list; `more` is its end cursor if another page follows."""
    return {"nodes": list(nodes), "pageInfo": {"hasNextPage": more is not None, "endCursor": more}}


def server(server_id: str = "srv_1", status: str = "RUNNING", **fields: Any) -> dict[str, Any]:
    """The fields of `ServerFields`."""
    known: dict[str, Any] = {
        "id": server_id,
        "name": "web",
        "status": status,
        "desiredStatus": "RUNNING",
        "vcpus": 1,
        "memoryMib": 1024,
        "firmware": "BIOS",
        "revision": 1,
        "createdBy": "ada",
        "image": {"id": "img_1", "name": "debian"},
        "bootVolume": {"id": "vol_1", "size": 3 << 30},
        "project": {"id": "prj_1", "name": "alpha"},
        "failure": None,
        "createdAt": "2026-01-01T00:00:00Z",
        "updatedAt": "2026-01-01T00:00:00Z",
    }
    return known | fields


def failed_server(code: str = "HOST_UNAVAILABLE", **fields: Any) -> dict[str, Any]:
    """A server in ERROR."""
    failure = {"code": code, "message": "The host is gone.", "hint": "Wait.", "occurredAt": "2026-01-01T00:00:00Z"}
    return server(status="ERROR", failure=failure, **fields)


def volume(volume_id: str = "vol_2", **fields: Any) -> dict[str, Any]:
    """The fields of `VolumeFields`: a data volume."""
    known: dict[str, Any] = {
        "id": volume_id,
        "name": "data",
        "size": 5 << 30,
        "bootable": False,
        "revision": 1,
        "server": None,
        "image": None,
        "project": {"id": "prj_1", "name": "alpha"},
        "createdAt": "2026-01-01T00:00:00Z",
        "updatedAt": "2026-01-01T00:00:00Z",
    }
    return known | fields
