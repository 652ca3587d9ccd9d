"""connection.json: written as a whole, for its owner alone, with tokens that are renewed."""

import json
import os
import stat
from itertools import count
from pathlib import Path

import pytest

from app.commands import connection_file
from app.errors import DatabaseUnavailable
from app.models import Project

PROJECTS = [Project(id="prj_1", organization_id="org_1", name="alpha")]


def token_in(path: Path) -> str:
    token: str = json.loads(path.read_text())["token"]
    return token


def wait_for(path: Path, token: str) -> None:
    """Until the file holds the token; a file that is replaced is whole whenever it is read."""
    while token_in(path) != token:
        os.sched_yield()


def test_the_token_is_renewed_while_the_gateway_runs(tmp_path: Path) -> None:
    path, numbers = tmp_path / "connection.json", count(1)
    connection = connection_file.contents("http://127.0.0.1:8000", "token 0", PROJECTS)
    connection_file.write(path, connection)

    with connection_file.renewed(path, connection, lambda: f"token {min(next(numbers), 3)}", seconds=0.001):
        wait_for(path, "token 3")

    assert json.loads(path.read_text()) == {**connection, "token": "token 3"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [left.name for left in tmp_path.iterdir()] == ["connection.json"]


def test_a_database_that_is_away_for_a_while_costs_no_later_token(tmp_path: Path) -> None:
    path, numbers = tmp_path / "connection.json", count(1)
    connection = connection_file.contents("http://127.0.0.1:8000", "token 0", PROJECTS)
    connection_file.write(path, connection)

    def new_token() -> str:
        if next(numbers) < 3:
            raise DatabaseUnavailable("away")
        return "token"

    with connection_file.renewed(path, connection, new_token, seconds=0.001):
        wait_for(path, "token")


@pytest.mark.parametrize("content", [None, "", "no JSON", "[]", "{}", '{"url": 7}'])
def test_a_file_that_does_not_tell_where_the_gateway_is_gives_no_address(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "connection.json"
    if content is not None:
        path.write_text(content)

    assert connection_file.read_url(path) is None
