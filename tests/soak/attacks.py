"""All attacks: how often each is made, and what has to come of it."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.soak import on_connections, on_graphql, on_images
from tests.soak.target import Target

# A refusal, in any of the ways that fit: too much, too many, or not like this.
_REFUSED = r"(400|413|415|422|429|431|503)( [A-Z_]+)?|200 [A-Z_]+|closed"
_LET_GO = r"4(00|01|08|13)( [A-Z_]+)?|429.*|closed|refused"


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: made again `pause` seconds after it has ended; what it says matches `expected` when it failed."""

    do: Callable[[Target], Awaitable[str]]
    pause: float
    expected: str

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return self.do.__name__

    def failed(self, outcome: str) -> bool:
        """Whether the gateway withstood it."""
        return re.fullmatch(self.expected, outcome) is not None


# Together some twenty requests and fifty subscriptions per second, few of them expensive: attackers, users and
# gateway share two cores. Users alone take half of one, and what an attack costs before it is refused comes on top.
ATTACKS: Sequence[Attack] = (
    Attack(on_connections.endless_head, 2, "431|closed"),
    Attack(on_connections.many_fields, 1, "431|closed"),
    Attack(on_connections.half_open_heads, 2, _LET_GO),
    Attack(on_connections.half_sent_bodies, 2, _LET_GO),
    Attack(on_connections.half_sent_bodies_of_a_member, 2, _LET_GO),
    Attack(on_connections.silent_connections, 6, "let in|some refused"),
    Attack(on_graphql.introspection_of_thirty_aliases, 2, _REFUSED),
    Attack(on_graphql.introspection_flood, 0.4, "200|" + _REFUSED),
    Attack(on_graphql.alias_bomb, 2, _REFUSED),
    Attack(on_graphql.labels, 2, _REFUSED),
    Attack(on_graphql.abandoned_searches, 2, "abandoned"),
    Attack(on_graphql.tokens_that_are_not_good, 0.4, r"401( [A-Z_]+)?|200 [A-Z_]+|429.*"),
    Attack(on_graphql.cursors_that_are_not_good, 0.4, _REFUSED),
    Attack(on_graphql.projects_of_others, 0.4, "200 NOT_FOUND|429.*"),
    Attack(on_graphql.socket_flood, 10, "limited"),
    Attack(on_graphql.long_message_types, 2, r"close 4\d\d\d|403|429"),
    Attack(on_images.bombs, 4, "UNSAFE_IMAGE|QUOTA_EXCEEDED"),
    # 409: another of the ten had come first.
    Attack(on_images.stalled_parts, 4, "no answer|408|409|closed"),
    Attack(on_images.parts_of_other_lengths, 2, r"4\d\d.*|closed"),
)
