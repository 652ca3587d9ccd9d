"""Finds, creates and changes shares of images."""

from collections.abc import Sequence

from app.client.api.catalogue import find_other_project, find_project
from app.client.api.gateway import Api, present
from app.client.api.paging import Page, read_all
from app.client.errors import Misconfigured, NotAllowed, NotFound
from app.client.generated.enums import ShareGrant, ShareState, UserErrorCode
from app.client.generated.fragments import ShareFields as Share
from app.client.generated.input_types import ShareImageInput, UpdateImageShareInput


async def shares_of(api: Api, image_id: str) -> Sequence[Share]:
    """The shares and offers of an image. Raises NotAllowed if the caller sees the image only through a share."""
    hidden = NotAllowed(
        "Only members of the project that owns the image can list its shares.",
        hint="Ask an admin of that project.",
        code="FORBIDDEN",
    )

    async def page(after: str | None) -> Page[Share] | None:
        image = (await api.shares(image_id, after)).image
        return image.shares if image else None

    return [share async for share in read_all(page, hidden)]


async def offers_to(api: Api, project_id: str) -> Sequence[Share]:
    """The offers to a project. Raises NotAllowed if the caller is not an admin of it."""
    hidden = NotAllowed(
        "Only admins of the project can list the images offered to it.",
        hint="Ask an admin of the project for the role ADMIN.",
        code="FORBIDDEN",
    )

    async def page(after: str | None) -> Page[Share] | None:
        project = (await api.offers(project_id, after)).project
        return project.share_offers if project else None

    return [share async for share in read_all(page, hidden)]


def share_with(shares: Sequence[Share], wanted: str) -> Share | None:
    """The share with the project of this id or name. Names are unique within the organization of the shares."""
    by_id = [share for share in shares if share.project.id == wanted]
    by_name = [share for share in shares if share.project.name == wanted]
    return next(iter(by_id + by_name), None)


async def share_image(api: Api, image_id: str, wanted: str, grant: ShareGrant, *, offer: bool) -> Share:
    """Share an image with the project of this id or name, or change the share's grant. Raises ClientError."""
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
        # The gateway's own hint mentions the API's `offer: true`.
        hint = "Use --offer, so that an admin of that project can accept it, or ask to become an admin there."
        raise NotAllowed(error.message, hint=hint, code=error.code, **error.details) from None
    return present(present(payload).share)


async def find_offer(api: Api, wanted: str, project: str | None) -> str:
    """The id of a share: `wanted` itself, or the id of the offer of the image with this name to `project`.

    Raises NotFound, Misconfigured.
    """
    # A share that was accepted or declined is no longer among the offers, so ids are not checked against them.
    if wanted.startswith("shr_"):
        return wanted
    offers = await offers_to(api, await find_project(api, project))
    found = [share.id for share in offers if (share.image_name or "").casefold() == wanted.casefold()]
    if not found:
        raise NotFound(
            f"No image called {wanted} is offered to the project.", hint="Run `images offers` to list the offers."
        )
    if len(found) > 1:
        raise Misconfigured(
            f"{len(found)} images called {wanted} are offered.", hint="Use one of these ids: " + ", ".join(found)
        )
    return found[0]
