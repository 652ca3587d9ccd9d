"""Shares of images: found by what people call the other project, made, and changed."""

from collections.abc import Sequence

from app.client.api.catalogue import find_other_project, find_project
from app.client.api.gateway import Api, present
from app.client.api.paging import Page, read_all
from app.client.errors import Misconfigured, NotAllowed, NotFound
from app.client.generated.enums import ShareGrant, ShareState, UserErrorCode
from app.client.generated.fragments import ShareFields as Share
from app.client.generated.input_types import ShareImageInput, UpdateImageShareInput


async def shares_of(api: Api, image_id: str) -> Sequence[Share]:
    """With whom an image is shared, or offered to. Raises NotAllowed for who sees it through a share."""
    hidden = NotAllowed(
        "Only those who belong to the project that owns the image see with whom it is shared.",
        hint="An admin of that project decides.",
        code="FORBIDDEN",
    )

    async def page(after: str | None) -> Page[Share] | None:
        image = (await api.shares(image_id, after)).image
        return image.shares if image else None

    return [share async for share in read_all(page, hidden)]


async def offers_to(api: Api, project_id: str) -> Sequence[Share]:
    """What is offered to a project. Raises NotAllowed for who is no admin of it."""
    hidden = NotAllowed(
        "It takes an admin of the project to see what is offered to it.",
        hint="An admin of the project can give you the role.",
        code="FORBIDDEN",
    )

    async def page(after: str | None) -> Page[Share] | None:
        project = (await api.offers(project_id, after)).project
        return project.share_offers if project else None

    return [share async for share in read_all(page, hidden)]


def share_with(shares: Sequence[Share], wanted: str) -> Share | None:
    """The share with the project of this id or name: all of them are of one organization, where names are unique."""
    by_id = [share for share in shares if share.project.id == wanted]
    by_name = [share for share in shares if share.project.name == wanted]
    return next(iter(by_id + by_name), None)


async def share_image(api: Api, image_id: str, wanted: str, grant: ShareGrant, *, offer: bool) -> Share:
    """The share of an image with the project of this id or name, as it is to be from now on. Raises ClientError."""
    known = share_with(await shares_of(api, image_id), wanted)
    if known is None or known.state != ShareState.ACCEPTED:
        project_id = known.project.id if known else await find_other_project(api, wanted)
        given = ShareImageInput(image_id=image_id, project_id=project_id, grant=grant, offer=offer)
        return await _new_share(api, given)
    if known.grant == grant:
        return known
    payload = (await api.update_share(UpdateImageShareInput(share_id=known.id, grant=grant))).update_image_share
    return present(present(payload).share)


async def _new_share(api: Api, given: ShareImageInput) -> Share:
    try:
        payload = (await api.share_image(given)).share_image
    except NotAllowed as error:
        if error.code != UserErrorCode.NOT_TARGET_ADMIN:
            raise
        # The gateway's own hint speaks of the API's `offer: true`.
        hint = "Say --offer: then an admin of that project can accept it. Or have yourself made an admin there."
        raise NotAllowed(error.message, hint=hint, code=error.code, **error.details) from None
    return present(present(payload).share)


async def find_offer(api: Api, wanted: str, project: str | None) -> str:
    """The id of a share: of this one; or else of the one image of this name that is offered to `project`.

    Raises NotFound, Misconfigured.
    """
    # A share that was answered before is among no offers any more, so that ids are not looked for there.
    if wanted.startswith("shr_"):
        return wanted
    offers = await offers_to(api, await find_project(api, project))
    found = [share.id for share in offers if (share.image_name or "").casefold() == wanted.casefold()]
    if not found:
        raise NotFound(f"No image called {wanted} is offered to the project.", hint="`images offers` lists what is.")
    if len(found) > 1:
        raise Misconfigured(f"{len(found)} images called {wanted} are offered.", hint="Say the id: " + ", ".join(found))
    return found[0]
