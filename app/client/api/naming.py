"""Finds objects by name, and refuses to guess when several have it."""

import unicodedata
from collections.abc import Sequence
from typing import Protocol, TypeVar

from app.client.api.catalogue import image_by_id, list_images
from app.client.api.gateway import Api
from app.client.errors import Ambiguous, NotFound
from app.client.generated.enums import ImageOrderField, ImageStatus, ImageVisibility, OrderDirection
from app.client.generated.fragments import ImageFields
from app.client.generated.input_types import ImageFilter, ImageOrder

# The longest text that the gateway searches for, in characters.
_MAXIMUM_SEARCH = 64
_NEWEST_FIRST = ImageOrder(field=ImageOrderField.CREATED_AT, direction=OrderDirection.DESC)


class Named(Protocol):
    """An object with an id and a name."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...


Thing = TypeVar("Thing", bound=Named)


def called(things: Sequence[Thing], name: str) -> list[Thing]:
    """The things of a name, compared as the gateway compares names."""
    key = _key(name.strip())
    return [thing for thing in things if _key(thing.name) == key]


def only_one(found: Sequence[Thing], kind: str, wanted: str) -> Thing:
    """The only thing that was found. `kind` is its singular, such as "server". Raises NotFound, Ambiguous."""
    if not found:
        raise NotFound(f"There is no {kind} with the id or name {wanted}.")
    if len(found) > 1:
        raise Ambiguous.among(f"{kind}s", wanted, [thing.id for thing in found])
    return found[0]


async def find_image_to_launch(api: Api, wanted: str, project_id: str) -> ImageFields:
    """The image with this id; or else the one of this name. ACTIVE images come before others.

    As everywhere, the project's own images come first, then those that are shared with it, then public ones.
    Raises NotFound, Ambiguous.
    """
    if wanted.startswith("img_"):
        try:
            return await image_by_id(api, wanted)
        except NotFound:
            pass  # it may be a name
    found = _nearest(await _images_called(api, wanted, project_id), project_id)
    active = [image for image in found if image.status == ImageStatus.ACTIVE]
    return only_one(active or found, "image", wanted)


async def _images_called(api: Api, name: str, project_id: str) -> list[ImageFields]:
    """All images of a name that a project can see."""
    searched = name.strip()
    if not searched:
        return []
    if max(len(searched), len(_key(searched))) > _MAXIMUM_SEARCH:
        searched = _key(searched)[:_MAXIMUM_SEARCH]
    chosen = ImageFilter(name_contains=searched)
    return called([image async for image in list_images(api, project_id, chosen, _NEWEST_FIRST, None)], name)


def _nearest(images: Sequence[ImageFields], project_id: str) -> Sequence[ImageFields]:
    own = [image for image in images if image.project and image.project.id == project_id]
    shared = [image for image in images if image.visibility != ImageVisibility.PUBLIC]
    return own or shared or images


def _key(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()
