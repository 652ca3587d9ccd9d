"""Shares of images: found by what people call the other project, made, and changed."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.client.api import sharing_documents as documents
from app.client.api.catalogue import find_other_project, find_project
from app.client.api.gateway import Api
from app.client.api.paging import read_all
from app.client.errors import Misconfigured, NotAllowed, NotFound

Share = dict[str, Any]


async def shares_of(api: Api, image_id: str) -> Sequence[Share]:
    """With whom an image is shared, or offered to. Raises NotAllowed for who sees it through a share."""
    hidden = NotAllowed(
        "Only those who belong to the project that owns the image see with whom it is shared.",
        hint="An admin of that project decides.",
        code="FORBIDDEN",
    )
    return [share async for share in read_all(api, documents.SHARES, ("image", "shares"), hidden, image=image_id)]


async def offers_to(api: Api, project_id: str) -> Sequence[Share]:
    """What is offered to a project. Raises NotAllowed for who is no admin of it."""
    hidden = NotAllowed(
        "It takes an admin of the project to see what is offered to it.",
        hint="An admin of the project can give you the role.",
        code="FORBIDDEN",
    )
    page = read_all(api, documents.OFFERS, ("project", "shareOffers"), hidden, project=project_id)
    return [share async for share in page]


def share_with(shares: Sequence[Share], wanted: str) -> Share | None:
    """The share with the project of this id or name: all of them are of one organization, where names are unique."""
    for key in ("id", "name"):
        for share in shares:
            if share["project"][key] == wanted:
                return share
    return None


async def share_image(api: Api, image: Mapping[str, Any], wanted: str, grant: str, *, offer: bool) -> Share:
    """The share of an image with the project of this id or name, as it is to be from now on. Raises ClientError."""
    known = share_with(await shares_of(api, image["id"]), wanted)
    if known is None or known["state"] != "ACCEPTED":
        project_id = known["project"]["id"] if known else await find_other_project(api, wanted)
        return await _new_share(api, image["id"], project_id, grant, offer=offer)
    if known["grant"] == grant:
        return known
    payload = await api.mutate(documents.UPDATE_SHARE, shareId=known["id"], grant=grant)
    return dict(payload["share"])


async def _new_share(api: Api, image_id: str, project_id: str, grant: str, *, offer: bool) -> Share:
    given = {"imageId": image_id, "projectId": project_id, "grant": grant, "offer": offer}
    try:
        payload = await api.mutate(documents.SHARE_IMAGE, **given)
    except NotAllowed as error:
        if error.code != "NOT_TARGET_ADMIN":
            raise
        # The gateway's own hint speaks of the API's `offer: true`.
        hint = "Say --offer: then an admin of that project can accept it. Or have yourself made an admin there."
        raise NotAllowed(error.message, hint=hint, code=error.code, **error.details) from None
    return dict(payload["share"])


async def find_offer(api: Api, wanted: str, project: str | None) -> str:
    """The id of a share: of this one; or else of the one image of this name that is offered to `project`.

    Raises NotFound, Misconfigured.
    """
    # A share that was answered before is among no offers any more, so that ids are not looked for there.
    if wanted.startswith("shr_"):
        return wanted
    offers = await offers_to(api, await find_project(api, project))
    found = [share["id"] for share in offers if (share["imageName"] or "").casefold() == wanted.casefold()]
    if not found:
        raise NotFound(f"No image called {wanted} is offered to the project.", hint="`images offers` lists what is.")
    if len(found) > 1:
        raise Misconfigured(f"{len(found)} images called {wanted} are offered.", hint="Say the id: " + ", ".join(found))
    return str(found[0])
