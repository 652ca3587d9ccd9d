"""Where the client goes, and as whom."""

import json
from pathlib import Path

import pytest

from app.client.api.connection import Connection, find_connection
from app.client.errors import Misconfigured


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(path: Path, bearer: str = "from-file") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"url": "http://file:1", "graphql": "http://file:1/graphql", "token": bearer}))
    return path


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/graphql"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/graphql"),
        ("https://images.example.org/graphql", "https://images.example.org/graphql"),
        ("https://example.org/images/", "https://example.org/images/graphql"),
        ("http://[::1]:8000", "http://[::1]:8000/graphql"),
    ],
)
def test_the_endpoint_follows_from_a_base_address_or_is_given_itself(given: str, endpoint: str) -> None:
    found = find_connection({"IMAGES_URL": given, "IMAGES_TOKEN": "t"}, project="alpha")

    assert found == Connection(endpoint, "t", "alpha")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:port", "http://u:p@host", "http://host/?q", "x\n"]
)
def test_an_address_that_cannot_work_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match="IMAGES_URL"):
        find_connection({"IMAGES_URL": url, "IMAGES_TOKEN": "t"})


@pytest.mark.parametrize("token", ["two words", "new\nline", "ümlaut"])
def test_a_token_that_cannot_stand_in_a_header_is_refused(token: str) -> None:
    with pytest.raises(Misconfigured, match="token"):
        find_connection({"IMAGES_URL": "http://host", "IMAGES_TOKEN": token})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(Misconfigured, match="IMAGES_TOKEN is not"):
        find_connection({"IMAGES_URL": "http://host"})
    with pytest.raises(Misconfigured, match="IMAGES_URL is not"):
        find_connection({"IMAGES_TOKEN": "t"})
    with pytest.raises(Misconfigured) as nothing:
        find_connection({})
    assert nothing.value.hint is not None
    assert all(name in nothing.value.hint for name in ("IMAGES_URL", "IMAGES_TOKEN", "--connection"))


def test_the_file_of_the_embedded_gateway_is_used_when_nothing_is_set() -> None:
    written(Path("data/connection.json"))

    assert find_connection({}) == Connection("http://file:1/graphql", "from-file")


def test_an_address_and_a_token_never_come_from_different_places() -> None:
    written(Path("data/connection.json"))

    with pytest.raises(Misconfigured, match="IMAGES_TOKEN is not"):
        find_connection({"IMAGES_URL": "http://elsewhere"})


def test_the_option_goes_before_the_environment_and_that_before_the_embedded_gateway(tmp_path: Path) -> None:
    written(Path("data/connection.json"))
    environ = {"IMAGES_CONNECTION": str(written(tmp_path / "named.json", "named"))}
    assert find_connection(environ).token == "named"

    environ |= {"IMAGES_URL": "http://host", "IMAGES_TOKEN": "set"}
    assert find_connection(environ).token == "set"
    assert find_connection(environ, written(tmp_path / "option.json", "option")).token == "option"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"graphql": "http://host/graphql", "token": null}', "\x00"])
def test_a_file_that_tells_no_connection_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "connection.json"
    file.write_text(text)

    with pytest.raises(Misconfigured, match=r"connection\.json"):
        find_connection({}, file)


def test_the_token_is_not_shown_when_a_connection_is() -> None:
    assert "secret" not in repr(Connection("http://host/graphql", "secret"))


def test_a_file_may_name_the_project_that_is_meant_when_nobody_says_one(tmp_path: Path) -> None:
    file = written(tmp_path / "connection.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "project": "prj_usual"}))

    assert find_connection({}, file).project == "prj_usual"
    assert find_connection({}, file, "beta").project == "beta"
    assert find_connection({"IMAGES_URL": "http://host", "IMAGES_TOKEN": "t"}).project is None
