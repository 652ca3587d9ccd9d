"""The attackers' process: makes attacks at once until it is ended, and says what came of each.

Run as `python -m tests.soak.attacking SECONDS NAMES…`, with the target as JSON on standard input; ends by itself after
that time. Prints one JSON object: how often each outcome came, by the name of the attack.
"""

import asyncio
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import uvloop

from tests.e2e.client import Refused
from tests.soak.attacks import ATTACKS, Attack
from tests.soak.target import Target

# What attackers spend on another machine in real life: here they stand back behind users and gateway.
_NICE = 10
# How long attacks may go on after their time, to end what they have begun: the longest holds on for 60 s.
_GRACE_SECONDS = 75.0


async def _again_and_again(attack: Attack, target: Target, said: Counter[str], seconds: float) -> None:
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until:
        try:
            said[await attack.do(target)] += 1
        except (OSError, TimeoutError):
            said["refused"] += 1
        except (AssertionError, Refused, httpx.HTTPError, IndexError):
            # Attackers need uploads to begin with, and may be refused those too.
            said["nothing to attack"] += 1
        await asyncio.sleep(attack.pause * random.uniform(0.8, 1.2))


async def _storm(target: Target, seconds: float, names: Sequence[str]) -> None:
    said: dict[str, Counter[str]] = {attack.name: Counter() for attack in ATTACKS}
    storm = [_again_and_again(attack, target, said[attack.name], seconds) for attack in ATTACKS if attack.name in names]
    try:
        async with asyncio.timeout(seconds + min(_GRACE_SECONDS, seconds)):
            await asyncio.gather(*storm)
    except TimeoutError:
        pass
    print(json.dumps(said), flush=True)  # noqa: T201
    # Threads that still wait for what becomes of a bomb are not waited for.
    os._exit(0)


def target_of(fields: Mapping[str, Any]) -> Target:
    """The target with these fields, without its processes, which attackers do not need."""
    return Target(**fields, processes=())


if __name__ == "__main__":
    os.nice(_NICE)
    uvloop.run(_storm(target_of(json.load(sys.stdin)), float(sys.argv[1]), sys.argv[2:]))
