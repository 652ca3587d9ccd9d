"""An event is resolved once for all watchers with the same selection, and for each where results differ."""

import gc
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest
import strawberry
from graphql import parse

from app.graphql.reused_results import ReusedResults, ReusingExecutor
from tests.app.conftest import StartGateway
from tests.support.gateway import MEMBER, READER
from tests.support.watchers import Wanted, served, watching

pytestmark = pytest.mark.anyio

resolved: list[str] = []


@dataclass
class Asking:
    """A context with the attributes that the executor uses."""

    name: str
    reused_results: ReusedResults
    personal: bool = field(default=False)

    @property
    def viewer(self) -> str:
        self.personal = True
        return self.name


@strawberry.type
class Happening:
    share_key: strawberry.Private[str | None]

    @strawberry.field
    def shout(self, times: int = 1) -> str:
        resolved.append("shout")
        return f"event {self.share_key}" + "!" * times

    @strawberry.field
    def whisper(self, info: strawberry.Info[Any, Any]) -> str:
        resolved.append("whisper")
        return f"for {info.context.viewer}"


@strawberry.type
class Query:
    ok: bool = True


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def happenings(self, keys: list[str], after: str | None = None) -> AsyncGenerator[Happening, None]:
        for key in keys:
            yield Happening(share_key=key or None)


SCHEMA = strawberry.Schema(Query, subscription=Subscription, execution_context_class=ReusingExecutor)


async def watched(document: Any, name: str, reused: ReusedResults, **variables: Any) -> list[Any]:
    """The items that one watcher receives."""
    items = await SCHEMA.subscribe(document, context_value=Asking(name, reused), variable_values=variables)
    assert hasattr(items, "__aiter__")
    return [item.data and item.data["happenings"] async for item in items]


@pytest.fixture(autouse=True)
def nothing_resolved_yet() -> None:
    resolved.clear()


@pytest.fixture
def same_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses each document once, as the real schema does."""
    documents: dict[str, Any] = {}

    def parsed(text: str, **_options: Any) -> Any:
        if text not in documents:
            documents[text] = parse(text)
        return documents[text]

    monkeypatch.setattr("strawberry.schema.schema.parse", parsed)


SHOUT = "subscription ($keys: [String!]!, $after: String) { happenings(keys: $keys, after: $after) { shout } }"
TIMES = "subscription ($keys: [String!]!, $times: Int!) { happenings(keys: $keys) { ...loud } } \
         fragment loud on Happening { shout(times: $times) }"
WHISPER = "subscription ($keys: [String!]!) { happenings(keys: $keys) { whisper } }"


@pytest.mark.usefixtures("same_document")
async def test_watchers_who_ask_the_same_share_the_work_wherever_they_began() -> None:
    reused = ReusedResults()

    first = await watched(SHOUT, "ada", reused, keys=["1", "2"], after="0")
    second = await watched(SHOUT, "max", reused, keys=["2"], after="1")

    assert first == [{"shout": "event 1!"}, {"shout": "event 2!"}]
    assert second == [{"shout": "event 2!"}]
    assert resolved == ["shout", "shout"]


@pytest.mark.usefixtures("same_document")
async def test_a_variable_that_decides_what_is_selected_keeps_results_apart() -> None:
    reused = ReusedResults()

    quiet = await watched(TIMES, "ada", reused, keys=["1"], times=1)
    loud = await watched(TIMES, "max", reused, keys=["1"], times=3)

    assert (quiet, loud) == ([{"shout": "event 1!"}], [{"shout": "event 1!!!"}])


@pytest.mark.usefixtures("same_document")
async def test_a_result_for_one_caller_is_never_reused_for_another() -> None:
    reused = ReusedResults()

    ada = await watched(WHISPER, "ada", reused, keys=["1"])
    max_ = await watched(WHISPER, "max", reused, keys=["1"])

    assert (ada, max_) == ([{"whisper": "for ada"}], [{"whisper": "for max"}])


@pytest.mark.usefixtures("same_document")
async def test_an_event_that_can_not_be_reused_is_resolved_for_each_watcher() -> None:
    reused = ReusedResults()

    await watched(SHOUT, "ada", reused, keys=[""])
    await watched(SHOUT, "max", reused, keys=[""])

    assert resolved == ["shout", "shout"]


async def test_watchers_of_one_project_each_see_their_own_permissions(start_gateway: StartGateway) -> None:
    document = """subscription ($project: ID!, $after: EventCursor!) {
      imageEvents(projectId: $project, after: $after, progress: false) {
        ... on ImageEvent { image { name viewerCan { edit } } } } }"""
    async with start_gateway() as gateway, served(gateway.app, gateway.endpoint) as url:
        after = (await gateway.ask("{ eventCursor }"))["eventCursor"]
        await gateway.create(name="shared")
        variables = {"project": gateway.alpha, "after": after}
        wanted = [Wanted(url, document, variables, gateway.token(subject)) for subject in (MEMBER, READER)]
        async with watching("sse", wanted[0]) as member, watching("sse", wanted[1]) as reader:
            seen = [(await watcher.item())["image"]["viewerCan"]["edit"] for watcher in (member, reader)]

    assert seen == [True, False]


async def test_operations_leave_no_executor_to_the_collector_of_cycles(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        image = await gateway.create()
        gc.collect()
        gc.disable()
        try:
            await gateway.ask("query Q($id: ID!) { image(by: {id: $id}) { name project { name } } }", id=image["id"])
            await gateway.mutate("updateImage", {"imageId": image["id"], "name": "another"})
            assert [each for each in gc.get_objects() if type(each) is ReusingExecutor] == []
        finally:
            gc.enable()
