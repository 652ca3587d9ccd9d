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
        "viewerCan": {"launch": True, "edit": True, "share": True, "delete": True},
        "progress": None,
        "failure": None,
        "createdAt": "2026-01-01T00:00:00Z",
        "updatedAt": "2026-01-01T00:00:00Z",
    }
    return known | fields


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
