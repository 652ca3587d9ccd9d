"""Finds projects and images by what people call them."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from app.client.api import documents
from app.client.api.gateway import Api
from app.client.api.paging import read_all
from app.client.errors import Misconfigured, NoAnswer, NotFound

_PAGE = 100


async def find_project(api: Api, wanted: str | None) -> str:
    """The id of the project with this id or name; without one, of the only project there is.

    Raises NotFound when there is none, Misconfigured when there are several to choose from.
    """
    hidden = NoAnswer("The gateway does not tell which projects you belong to.")
    projects = [project async for project in read_all(api, documents.PROJECTS, ("viewer", "projects"), hidden)]
    names = ", ".join(sorted(project["name"] for project in projects)) or "none"
    if wanted is None:
        if len(projects) == 1:
            return str(projects[0]["id"])
        if not projects:
            raise NotFound("You belong to no project.", hint="Ask an administrator of one to let you in.")
        raise Misconfigured(
            f"You belong to several projects: {names}.", hint="Choose one with --project or IMAGES_PROJECT."
        )
    # Names are unique only within an organization, ids everywhere.
    for key in ("id", "name"):
        found = [project["id"] for project in projects if project[key] == wanted]
        if len(found) == 1:
            return str(found[0])
        if found:
            raise Misconfigured(f"{len(found)} projects are called {wanted}.", hint="Say the id: " + ", ".join(found))
    raise NotFound(f"You belong to no project {wanted}.", hint=f"Your projects: {names}.")


async def find_other_project(api: Api, wanted: str) -> str:
    """The id of a project that the caller need not belong to: this id, or that of one they see by this name.

    Raises NotFound, Misconfigured.
    """
    try:
        return await find_project(api, wanted)
    except NotFound:
        # Whether there is such a project, the gateway says.
        if wanted.startswith("prj_"):
            return wanted
        raise NotFound(
            f"You belong to no project {wanted}.",
            hint="Say its id: those who belong to it are told it by `images projects`.",
        ) from None


async def find_image(api: Api, wanted: str, project: str | None) -> dict[str, Any]:
    """The image with this id; or else of this name, in `project` (its name or id, or None for the only one).

    Raises NotFound, Misconfigured.
    """
    try:
        return await image_by_id(api, wanted)
    except NotFound:
        pass
    by_name = {"name": {"name": wanted, "projectId": await find_project(api, project)}}
    try:
        return await _image(api, by_name)
    except NotFound:
        raise NotFound(f"There is no image with the id or name {wanted}.") from None


async def image_by_id(api: Api, image_id: str, document: str = documents.IMAGE) -> dict[str, Any]:
    """The image with this id. Raises NotFound."""
    return await _image(api, {"id": image_id}, document)


async def _image(api: Api, by: Mapping[str, Any], document: str = documents.IMAGE) -> dict[str, Any]:
    image: dict[str, Any] | None = (await api.query(document, by=by))["image"]
    if image is None:
        raise NotFound("There is no such image.")
    return image


async def list_images(
    api: Api, project_id: str, chosen: Mapping[str, Any], order: Mapping[str, str], limit: int | None
) -> AsyncIterator[dict[str, Any]]:
    """The images of a project that match the filter `chosen`, at most `limit` of them, read page by page."""
    after, left = None, limit
    while left is None or left > 0:
        first = _PAGE if left is None else min(_PAGE, left)
        data = await api.query(
            documents.IMAGES, project=project_id, filter=chosen, order=order, first=first, after=after
        )
        page = data["images"]
        if page is None:
            raise NoAnswer("The gateway does not tell of the project's images.")
        for image in page["nodes"]:
            yield image
        left = None if left is None else left - len(page["nodes"])
        if not page["pageInfo"]["hasNextPage"]:
            return
        after = page["pageInfo"]["endCursor"]
