"""No page contains a token: signing a browser in takes a one-time code, over real sockets."""

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from app.commands.operators import command_line
from tests.e2e.client import eventually
from tests.e2e.gateway import IMAGES, Gateway, clean_environment
from tests.e2e.processes import images_command, images_process
from tests.servers.relay import relay

NAVIGATION = {
    "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "none",
}
# The form of any JSON Web Token (RFC 7519).
TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")


@pytest.fixture
def plain_proxy(running_gateway: Gateway) -> Iterator[str]:
    """The gateway behind nginx's `proxy_pass` alone: no header shows that there is a proxy."""
    with relay(running_gateway.port, lambda _request: None) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(params=["directly", "through a plain proxy"])
def address(request: pytest.FixtureRequest, running_gateway: Gateway) -> str:
    if request.param == "directly":
        return running_gateway.url
    proxy: str = request.getfixturevalue("plain_proxy")
    return proxy


@pytest.mark.parametrize("headers", [NAVIGATION, {"Accept": "text/html"}], ids=["browser", "raw request"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "images.example.org"])
def test_no_page_that_is_just_requested_holds_a_token(address: str, headers: dict[str, str], host: str) -> None:
    for path in ("/", "/graphql", "/graphql?query={viewer{subject}}", "/graphiql/page.js", "/graphiql/signin"):
        page = httpx.get(address + path, headers={**headers, "Host": host}, follow_redirects=True)

        assert not TOKEN.search(page.text), path
        assert "demo-admin" not in page.text


def exchange(url: str, address: str) -> httpx.Response:
    return httpx.post(f"{url}/graphiql/signin", json={"code": address.strip().partition("#code=")[2]})


def who_is(url: str, token: str) -> str:
    """The subject that a token speaks for, or why there is none."""
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.post(f"{url}/graphql", json={"query": "{ viewer { subject } }"}, headers=headers).json()
    return str(answer["errors"][0]["message"] if "errors" in answer else answer["data"]["viewer"]["subject"])


def test_codes_and_revocations_hold_in_every_process_of_a_folder(running_gateway: Gateway, tmp_path: Path) -> None:
    data = ("--data", str(running_gateway.data))
    log = tmp_path / "serve.log"
    with images_process(log, "serve", *data, "--port", "0") as serve:
        printed = images_command("signin", *data, "--subject", "ada")
        assert printed.stdout.startswith(f"{running_gateway.graphql}#code=")
        assert eventually(lambda: "listening on" in log.read_text()), serve.poll()
        served = re.findall(r"listening on (\S+)", log.read_text())[0]

        token = exchange(served, printed.stdout).json()["token"]
        assert exchange(running_gateway.url, printed.stdout).status_code == 403
        urls = (running_gateway.url, served)
        assert [who_is(url, token) for url in urls] == ["ada", "ada"]
        revoked = images_command("token", *data, "--revoke-all", "ada")

        assert revoked.stdout == "all tokens of ada are revoked; every process refuses them within 1 second\n"
        for url in urls:
            eventually(lambda url=url: who_is(url, token) == "the token was revoked: get a new one")  # type: ignore[misc]
        again = images_command("token", *data, "--subject", "ada").stdout.strip()
        assert [who_is(url, again) for url in urls] == ["ada", "ada"]
        assert who_is(running_gateway.url, running_gateway.token) == "demo-admin"


def test_up_shows_a_sign_in_address_to_who_sits_there_and_keeps_it_out_of_logs(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    command = [IMAGES, "up", "--data", str(tmp_path / "data"), "--port", "0"]
    with ExitStack() as stack:
        stack.callback(os.close, ours)
        log = stack.enter_context((tmp_path / "log").open("wb"))
        process = subprocess.Popen(command, env=clean_environment(), stdin=its, stdout=its, stderr=log)
        stack.callback(process.wait, 30)
        stack.callback(process.kill)
        os.close(its)
        said = b""
        while b"For the CLI" not in said:
            said += os.read(ours, 4096)

        found = re.search(r"(http://\S+)/graphql#code=[\w-]{43}", said.decode())
        assert found
        token = exchange(found[1], found[0]).json()["token"]
        assert who_is(found[1], token) == "demo-admin"
        assert not TOKEN.search(said.decode())
        assert found[0].partition("#code=")[2] not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("token",), "--revoke-all"),
        (("token", "--subject", "ada", "--revoke-all", "ada"), "--revoke-all"),
        (("token", "--revoke-all", "ada", "--operator"), "--operator"),
        (("signin", "--subject", ""), "subject"),
    ],
)
def test_commands_that_make_no_sense_say_why(tmp_path: Path, arguments: tuple[str, ...], named: str) -> None:
    done = CliRunner().invoke(command_line(), [*arguments, "--data", str(tmp_path / "data")])

    assert (done.exit_code, done.stdout) == (2, "")
    assert named in done.stderr
    assert not (tmp_path / "data").exists()


def test_where_no_gateway_ran_signin_asks_for_its_address(tmp_path: Path) -> None:
    done = images_command("signin", "--data", str(tmp_path / "data"))

    assert (done.returncode, done.stdout) == (2, "")
    assert "IMAGES_PUBLIC_URL" in done.stderr
