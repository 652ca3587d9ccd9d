"""Finds projects and images by what people call them."""

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


async def find_project(api: Api, wanted: str | None) -> str:
    """The id of the project with this id or name; without one, of the only project there is.

    Raises NotFound when there is none, Misconfigured when there are several to choose from.
    """
    hidden = NoAnswer("The gateway does not tell which projects you belong to.")

    async def page(after: str | None) -> Page[ProjectsViewerProjectsNodes] | None:
        viewer = (await api.projects(after=after)).viewer
        return viewer.projects if viewer else None

    projects = [project async for project in read_all(page, hidden)]
    names = ", ".join(sorted(project.name for project in projects)) or "none"
    if wanted is None:
        if len(projects) == 1:
            return projects[0].id
        if not projects:
            raise NotFound("You belong to no project.", hint="Ask an administrator of one to let you in.")
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
        return found((await api.image(ImageLookup(name=by_name))).image)
    except NotFound:
        raise NotFound(f"There is no image with the id or name {wanted}.") from None


async def image_by_id(api: Api, image_id: str) -> ImageImage:
    """The image with this id. Raises NotFound."""
    return found((await api.image(ImageLookup(id=image_id))).image)


def found(image: Given | None) -> Given:
    """An image that was looked for. Raises NotFound where there is none."""
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
            raise NoAnswer("The gateway does not tell of the project's images.")
        images = nodes_of(page)
        for image in images:
            yield image
        left = None if left is None else left - len(images)
        if not page.page_info.has_next_page:
            return
        after = page.page_info.end_cursor
