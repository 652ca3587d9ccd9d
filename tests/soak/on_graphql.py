"""Attacks by operations: introspection, aliases, long lists, searches, and tokens and cursors that are not good."""

import asyncio
import random
import string
from contextlib import AsyncExitStack

from tests.soak.target import Target
from tests.soak.wire import ask, connected, operation, shake_hands

_ALIASES = 30
_LABELS = 33_000
_SOCKETS = 150
_PATIENCE_SECONDS = 30
_SCHEMA = "__schema { types { name fields { name args { name type { name ofType { name } } } } } }"
_IMAGES = "images(projectId: $project, first: 100) { totalCount nodes { id name labels { key value } } }"


async def introspection_of_thirty_aliases(target: Target) -> str:
    """The whole schema thirty times in one anonymous request."""
    return await ask(target, "", "{ " + " ".join(f"a{n}: {_SCHEMA}" for n in range(_ALIASES)) + " }")


async def introspection_flood(target: Target) -> str:
    """The schema once, over and over, each time in another document."""
    return await ask(target, "", f"query Q{random.randrange(1 << 30)} {{ {_SCHEMA} }}")


async def alias_bomb(target: Target) -> str:
    """A hundred lists of a hundred images in one request."""
    fields = " ".join(f"a{n}: {_IMAGES}" for n in range(100))
    variables = {"project": target.attackers_project}
    return await ask(target, target.attacker, f"query Q($project: ID!) {{ {fields} }}", variables)


async def labels(target: Target) -> str:
    """A list of 33,000 labels, from a caller whose token is good."""
    query = "mutation M($in: CreateImageInput!) { createImage(input: $in) { userErrors { code } image { id } } }"
    given = [{"key": str(number), "value": ""} for number in range(_LABELS)]
    source = {"upload": {"fileName": "disk.raw", "size": 1024}}
    image = {"projectId": target.attackers_project, "name": "labelled", "labels": given, "source": source}
    return await ask(target, target.attacker, query, {"in": image})


async def abandoned_searches(target: Target) -> str:
    """Ten searches for long texts whose clients do not wait for the response."""
    filtered = _IMAGES.replace("first:", "filter: $filter, first:")

    async def one() -> None:
        text = "".join(random.choices(string.ascii_lowercase, k=random.choice([60, 200])))
        query = f"query Q($project: ID!, $filter: ImageFilter) {{ {filtered} }}"
        variables = {"project": target.attackers_project, "filter": {"nameContains": text}}
        async with connected(target) as wire:
            await wire.send(operation(target, target.attacker, query, variables))

    await asyncio.gather(*(one() for _ in range(10)))
    return "abandoned"


async def tokens_that_are_not_good(target: Target) -> str:
    """Forged, cut off, or expired."""
    bad = [
        target.expired,
        target.forged,
        target.attacker[:-4] + "AAAA",
        "x" * 4000,
        target.user.rpartition(".")[0] + ".",
    ]
    return await ask(target, random.choice(bad), "{ viewer { id } }")


async def cursors_that_are_not_good(target: Target) -> str:
    """Cursors of pages and of the feed that no gateway gave."""
    cursor = random.choice(["1", "x" * 3000, "\0", "AAAA", "9" * 30])
    query = random.choice(
        [
            "query Q($p: ID!, $c: String) { it: images(projectId: $p, first: 5, after: $c) { totalCount } }",
            "query Q($p: ID!, $c: EventCursor) {"
            " it: imageEvents(projectId: $p, first: 5, after: $c) { nodes { imageId } } }",
        ]
    )
    return await ask(target, target.attacker, query, {"p": target.attackers_project, "c": cursor})


async def projects_of_others(target: Target) -> str:
    """The images of a project that the caller is no member of."""
    return await ask(target, target.attacker, f"query Q($project: ID!) {{ {_IMAGES} }}", {"project": target.project})


async def socket_flood(target: Target) -> str:
    """A hundred and fifty WebSockets of one caller at once, each with five subscriptions, for some seconds."""
    async with AsyncExitStack() as until_all_are_answered:
        opening = (_socket(target, until_all_are_answered) for _ in range(_SOCKETS))
        done = await asyncio.gather(*opening, return_exceptions=True)
        opened = sum(each is True for each in done)
        await asyncio.sleep(2)
    return f"all {_SOCKETS} let in" if opened == _SOCKETS else "limited"


async def _socket(target: Target, stack: AsyncExitStack) -> bool:
    """Open a WebSocket with five subscriptions until the end of the stack; whether it was let in."""
    document = "subscription S($project: ID!) { imageEvents(projectId: $project) { __typename } }"
    payload = {"query": document, "variables": {"project": target.attackers_project}}
    wire = await stack.enter_async_context(connected(target))
    if await shake_hands(target, wire) != "101":
        return False
    await wire.text({"type": "connection_init", "payload": {"Authorization": f"Bearer {target.attacker}"}})
    for number in range(5):
        await wire.text({"type": "subscribe", "id": str(number), "payload": payload})
    try:
        opcode, message = await wire.frame(_PATIENCE_SECONDS)
    except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
        return False
    return opcode != 8 and b"connection_ack" in message


async def long_message_types(target: Target) -> str:
    """A message whose type has a thousand characters; the answer has to be a proper close."""
    async with connected(target) as wire:
        if (status := await shake_hands(target, wire)) != "101":
            return status
        await wire.text({"type": "t" * 1000})
        try:
            opcode, payload = await wire.frame(20)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            return "no close"
        return f"close {int.from_bytes(payload[:2], 'big')}" if opcode == 8 else "no close"
