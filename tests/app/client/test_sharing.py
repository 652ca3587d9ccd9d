"""Finding, creating and changing shares, with a server that returns scripted responses."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from app.client.api.gateway import Api
from app.client.api.sharing import find_offer, offers_to, share_image, shares_of
from app.client.errors import ClientError, Misconfigured, NotAllowed, NotFound
from app.client.generated.enums import ShareGrant
from app.client.generated.fragments import ShareFields
from tests.support.answers import page, share
from tests.support.scripted_server import Answer, Reply, ScriptedServer, data, in_turn, session_with

T = TypeVar("T")


def shares(*nodes: dict[str, Any], more: str | None = None) -> Reply:
    return data(image={"shares": page(*nodes, more=more)})


def offers(*nodes: dict[str, Any]) -> Reply:
    return data(project={"shareOffers": page(*nodes)})


def projects(*names: str) -> Reply:
    return data(viewer={"projects": page(*({"id": f"prj_{name}", "name": name} for name in names))})


def mutated(name: str, made: dict[str, Any]) -> Reply:
    return data(**{name: {"share": made, "userErrors": []}})


def mistaken(name: str, code: str) -> Reply:
    return data(**{name: {"share": None, "userErrors": [{"code": code, "message": "No.", "hint": "H", "field": None}]}})


def ran(act: Callable[[Api], Awaitable[T]], answer: Answer) -> tuple[T, ScriptedServer]:
    async def run() -> tuple[T, ScriptedServer]:
        async with session_with(answer) as (at, server):
            return await act(at.api), server

    return asyncio.run(run())


def shared(
    wanted: str, *replies: Reply, grant: ShareGrant = ShareGrant.LAUNCH, offer: bool = False
) -> tuple[ShareFields, ScriptedServer]:
    return ran(lambda api: share_image(api, "img_1", wanted, grant, offer=offer), in_turn(*replies))


def test_the_shares_of_an_image_are_read_to_the_last_page() -> None:
    found, server = ran(lambda api: shares_of(api, "img_1"), in_turn(shares(share(1), more="c1"), shares(share(2))))

    assert [one.id for one in found] == ["shr_1", "shr_2"]
    assert [asked.variables["after"] for asked in server.asked] == [None, "c1"]


@pytest.mark.parametrize(
    ("act", "reply"),
    [
        (lambda api: shares_of(api, "img_1"), data(image={"shares": None})),
        (lambda api: offers_to(api, "prj_1"), data(project={"shareOffers": None})),
    ],
)
def test_what_is_hidden_from_somebody_is_not_taken_for_nothing(
    act: Callable[[Api], Awaitable[Any]], reply: Reply
) -> None:
    with pytest.raises(NotAllowed) as error:
        ran(act, in_turn(reply))

    assert error.value.code == "FORBIDDEN"


def test_an_image_that_is_shared_as_asked_for_is_left_alone() -> None:
    for wanted in ("prj_2", "project 2"):
        made, server = shared(wanted, shares(share(1), share(2)))

        assert made.id == "shr_2"
        assert [asked.operation for asked in server.asked] == ["Shares"]


def test_another_grant_changes_the_share_that_is_there() -> None:
    more = share(1, grant="LAUNCH_AND_EDIT")
    replies = shares(share(1)), mutated("updateImageShare", more)
    made, server = shared("project 1", *replies, grant=ShareGrant.LAUNCH_AND_EDIT)

    assert made == ShareFields.model_validate(more)
    assert [asked.operation for asked in server.asked] == ["Shares", "UpdateShare"]
    assert server.asked[-1].variables == {"input": {"shareId": "shr_1", "grant": "LAUNCH_AND_EDIT"}}


@pytest.mark.parametrize("state", ["OFFERED", "DECLINED"])
def test_what_is_not_accepted_is_shared_anew_with_the_project_that_is_known_by_then(state: str) -> None:
    _, server = shared("project 1", shares(share(1, state=state)), mutated("shareImage", share()), offer=True)

    assert [asked.operation for asked in server.asked] == ["Shares", "ShareImage"]
    assert server.asked[-1].variables["input"] == {
        "imageId": "img_1",
        "projectId": "prj_1",
        "grant": "LAUNCH",
        "offer": True,
    }


@pytest.mark.parametrize(("wanted", "sent"), [("beta", "prj_beta"), ("prj_beta", "prj_beta"), ("prj_far", "prj_far")])
def test_the_other_project_is_one_that_is_seen_or_any_by_its_id(wanted: str, sent: str) -> None:
    _, server = shared(wanted, shares(), projects("alpha", "beta"), mutated("shareImage", share()))

    assert server.asked[-1].variables["input"]["projectId"] == sent


def test_a_name_that_is_not_seen_is_told_apart_from_an_id() -> None:
    with pytest.raises(NotFound) as error:
        shared("gamma", shares(), projects("alpha", "beta"))

    assert "gamma" in error.value.message
    assert "id" in (error.value.hint or "")


@pytest.mark.parametrize(("code", "offered"), [("NOT_TARGET_ADMIN", True), ("FORBIDDEN", False)])
def test_who_may_not_share_at_once_is_told_of_offers(code: str, offered: bool) -> None:
    with pytest.raises(NotAllowed) as error:
        shared("prj_far", shares(), projects(), mistaken("shareImage", code))

    assert (error.value.code, error.value.message) == (code, "No.")
    assert ("--offer" in (error.value.hint or "")) is offered


def test_an_offer_is_found_by_the_name_of_its_image_or_is_a_share_by_id() -> None:
    def found(wanted: str, *replies: Reply) -> str:
        return ran(lambda api: find_offer(api, wanted, "alpha"), in_turn(*replies))[0]

    offered = offers(share(1, imageName="Web"), share(2, imageName="two"), share(3, imageName="two"))
    assert found("web", projects("alpha"), offered) == "shr_1"
    assert found("shr_9") == "shr_9"
    errors: list[ClientError] = []
    for wanted, kind in (("two", Misconfigured), ("three", NotFound)):
        with pytest.raises(kind) as error:
            found(wanted, projects("alpha"), offered)
        errors.append(error.value)
    assert errors[0].hint == "Use one of these ids: shr_2, shr_3"
