"""Finds projects and images by id or name."""

from collections.abc import AsyncIterator
from typing import TypeVar

from app.client.api.gateway import Api
from app.client.api.paging import Page, nodes_of, read_all
from app.client.errors import Misconfigured, NoAnswer, NotFound
from app.client.generated.fragments import ImageFields
from app.client.generated.image import ImageImage
from app.client.generated.input_types import ImageFilter, ImageLookup, ImageOrder, ProjectImageName
from app.client.generated.projects import ProjectsViewerProjectsNodes

Given = TypeVar("Given")

_PAGE = 100
_JOIN = "Ask a project's admin to add you."


async def find_project(api: Api, wanted: str | None) -> str:
    """The id of the project with this id or name; without one, of the caller's only project.

    Raises NotFound if there is none, Misconfigured if there are several.
    """
    hidden = NoAnswer("The gateway does not return your projects.")

    async def page(after: str | None) -> Page[ProjectsViewerProjectsNodes] | None:
        viewer = (await api.projects(after=after)).viewer
        return viewer.projects if viewer else None

    projects = [project async for project in read_all(page, hidden)]
    names = ", ".join(sorted(project.name for project in projects))
    if wanted is None:
        if len(projects) == 1:
            return projects[0].id
        if not projects:
            raise NotFound("You don't belong to any project.", hint=_JOIN)
        raise Misconfigured(
            f"You belong to several projects: {names}.", hint="Choose one with --project or IMAGES_PROJECT."
        )
    # Names are unique only within an organization, ids everywhere.
    by_id = [project.id for project in projects if project.id == wanted]
    by_name = [project.id for project in projects if project.name == wanted]
    for found in (by_id, by_name):
        if len(found) == 1:
            return found[0]
        if found:
            raise Misconfigured(
                f"{len(found)} projects are called {wanted}.", hint="Use one of these ids: " + ", ".join(found)
            )
    hint = f"Choose one of your projects: {names}." if projects else _JOIN
    raise NotFound(f"You don't belong to a project {wanted}.", hint=hint)


async def find_other_project(api: Api, wanted: str) -> str:
    """The id of a project that the caller need not belong to: `wanted` itself, or the id of the project it names.

    Raises NotFound, Misconfigured.
    """
    try:
        return await find_project(api, wanted)
    except NotFound:
        # The gateway checks whether the project exists.
        if wanted.startswith("prj_"):
            return wanted
        raise NotFound(
            f"You don't belong to a project {wanted}.",
            hint="Use its id, which its members find with `images projects`.",
        ) from None


async def find_image(api: Api, wanted: str, project: str | None) -> ImageImage:
    """The image with this id; or else of this name, in `project` (its name or id, or None for the only one).

    Raises NotFound, Misconfigured.
    """
    try:
        return await image_by_id(api, wanted)
    except NotFound:
        pass
    by_name = ProjectImageName(name=wanted, project_id=await find_project(api, project))
    try:
        return require_image((await api.image(ImageLookup(name=by_name))).image)
    except NotFound:
        raise NotFound(f"There is no image with the id or name {wanted}.") from None


async def image_by_id(api: Api, image_id: str) -> ImageImage:
    """The image with this id. Raises NotFound."""
    return require_image((await api.image(ImageLookup(id=image_id))).image)


def require_image(image: Given | None) -> Given:
    """The image of a response. Raises NotFound if it is null."""
    if image is None:
        raise NotFound("There is no such image.")
    return image


async def list_images(
    api: Api, project_id: str, chosen: ImageFilter, order: ImageOrder, limit: int | None
) -> AsyncIterator[ImageFields]:
    """The images of a project that match the filter `chosen`, at most `limit` of them, read page by page."""
    after, left = None, limit
    while left is None or left > 0:
        first = _PAGE if left is None else min(_PAGE, left)
        page = (await api.images(project_id, first, chosen, order, after)).images
        if page is None:
            raise NoAnswer("The gateway does not return the project's images.")
        images = nodes_of(page)
        for image in images:
            yield image
        left = None if left is None else left - len(images)
        if not page.page_info.has_next_page:
            return
        after = page.page_info.end_cursor
