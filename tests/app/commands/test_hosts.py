"""Operators list the hosts of servers, and remove one that never returns."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path

from app.catalog.servers import hosts
from app.catalog.servers.hosts import HostReport
from app.database.sessions import Database
from app.models import Host, now
from app.sizes import GIB
from tests.app.commands.test_cli import run
from tests.e2e.gateway import IMAGES


async def report(database: Path, **said: float) -> dict[str, str]:
    """Hosts that reported so many seconds ago; their ids, by name."""
    opened = Database(f"sqlite+aiosqlite:///{database}")
    ids = {name: await hosts.report(opened, HostReport(name, name, "tcg", 4 * GIB, 2)) for name in said}
    async with opened.transaction() as tx:
        for name, seconds in said.items():
            (await tx.session.get_one(Host, ids[name])).seen_at = now() - timedelta(seconds=seconds)
    await opened.close()
    return ids


def test_a_silent_host_is_removed_and_one_that_is_alive_is_not(tmp_path: Path) -> None:
    data = str(tmp_path)
    assert run(IMAGES, "hosts", "--data", data).stdout == ""
    ids = asyncio.run(report(tmp_path / "images.db", lost=3600, busy=-3600))

    refused = run(IMAGES, "forget-host", ids["busy"], "--data", data)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"host {ids['busy']} reported 0 seconds ago. Stop `images host` there" in refused.stderr
    removed = run(IMAGES, "forget-host", ids["lost"], "--data", data)
    assert removed.stdout == f"{ids['lost']} is removed; 0 servers in ERROR remain to be deleted by their users\n"

    listed = json.loads(run(IMAGES, "hosts", "--json", "--data", data).stdout)
    assert {host["name"]: (host["id"], host["state"], host["servers"]) for host in listed} == {
        "lost": (ids["lost"], "removed", 0),
        "busy": (ids["busy"], "alive", 0),
    }
    lines = run(IMAGES, "hosts", "--data", data).stdout.splitlines()
    assert lines[0].startswith(f"{ids['lost']}  lost  removed  0 servers in 4 GiB, tcg  last seen ")
