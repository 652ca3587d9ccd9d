"""docker-compose.yml and the Dockerfile: that they are valid, and say nothing that the gateway does not know."""

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from app.commands.operators import command_line
from app.settings import Settings

ROOT = Path(__file__).parents[1]
SECRETS = (
    "IMAGES_SECRET",
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
    "MINIO_ROOT_PASSWORD",
    "MINIO_GATEWAY_PASSWORD",
    "MINIO_UPLOAD_PASSWORD",
)
# The image itself decides on these.
INSIDE = {"IMAGES_HOST", "IMAGES_PORT"}
# These are for a host of servers.
OF_HOSTS = {"IMAGES_ACCELERATOR", "IMAGES_HOST_FOLDER", "IMAGES_HOST_MEMORY_GIB"}
# Only `images up` has it, which is not among the containers.
OF_UP = {"IMAGES_SERVERS"}
# With these, the migration makes what the others use.
ADMINISTRATIVE = {"IMAGES_OBJECT_STORE_ADMIN_KEY"}
TEXT = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
OURS = {
    name: service
    for name, service in SERVICES.items()
    if service["image"].startswith(("image-gateway:", "image-gateway-host:"))
}
# Those that others wait for to end.
ONE_SHOT = {
    name
    for service in SERVICES.values()
    for name, wanted in service.get("depends_on", {}).items()
    if wanted["condition"] == "service_completed_successfully"
}


def checked_with(secrets: Iterable[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """What docker-compose says of the file where these secrets are set; a file `.env` of this machine is not read."""
    settings = folder / "settings"
    settings.write_text("".join(f"{name}={'0123456789abcdef' * 4}\n" for name in secrets))
    return subprocess.run(
        ["docker-compose", "--env-file", settings, "--profile", "servers", "config", "--quiet"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )


def of_every(services: dict[str, dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("service", services.values(), ids=services.keys())


def is_pinned(image: str) -> bool:
    tag = image.partition(":")[2]
    return bool(re.search(r"\d|bookworm", tag)) and "latest" not in tag


@pytest.mark.needs_program("docker-compose")
def test_docker_compose_takes_the_file_as_valid(tmp_path: Path) -> None:
    checked = checked_with(SECRETS, tmp_path)

    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.needs_program("docker-compose")
@pytest.mark.parametrize("secret", SECRETS)
def test_nothing_starts_while_a_secret_is_not_set(secret: str, tmp_path: Path) -> None:
    checked = checked_with(set(SECRETS) - {secret}, tmp_path)

    assert checked.returncode != 0
    assert f"{secret} is not set; generate it with openssl rand -hex 32" in checked.stderr


def test_no_secret_is_written_in_the_file() -> None:
    # The name of a key may be: `uploads:${…}`.
    required = r"(?:[a-z]+:)?\$\{([A-Z_]+):\?\1 is not set; generate it with openssl rand -hex 32\}"
    values = {
        name: value
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if re.search(r"SECRET|PASSWORD|TOKEN|KEY", name)
    }

    assert [name for name, value in values.items() if not re.fullmatch(required, value)] == []
    # user:password@ of an address
    passwords = re.findall(r"://[a-z]*:((?:\$\{[^}]*\}|[^@\s\"])+)@", TEXT)
    assert len(passwords) == 3
    assert [password for password in passwords if not re.fullmatch(required, password)] == []
    named = {found[1] for text in (*values.values(), *passwords) if (found := re.fullmatch(required, text))}
    assert named == set(SECRETS)


def test_every_setting_can_be_given_and_nothing_is_called_like_one_that_is_none() -> None:
    settings = {f"IMAGES_{name.upper()}" for name in Settings.model_fields}

    for name, service in OURS.items():
        given = {variable for variable in service["environment"] if variable.startswith("IMAGES_")}
        left_out = INSIDE if name in ONE_SHOT else INSIDE | ADMINISTRATIVE
        assert given == settings - left_out - OF_UP - (set() if name == "host" else OF_HOSTS), name
    assert set(re.findall(r"\bIMAGES_[A-Z_]+", TEXT + DOCKERFILE)) <= settings
    assert INSIDE <= set(re.findall(r"\bIMAGES_[A-Z_]+", DOCKERFILE))


@of_every(OURS)
def test_a_command_is_one_that_images_knows(service: dict[str, Any]) -> None:
    commands = typer.main.get_group(command_line())
    name, *options = service["command"]
    command = commands.get_command(typer.Context(commands), name)

    assert command is not None
    command.make_context(name, list(options))


def test_there_are_two_apis_two_workers_one_clock_and_one_migration() -> None:
    counted: dict[str, int] = {}
    for service in (service for service in OURS.values() if "profiles" not in service):
        counted[service["command"][0]] = counted.get(service["command"][0], 0) + service.get("scale", 1)

    assert counted == {"serve": 2, "work": 2, "schedule": 1, "migrate": 1}
    assert "--no-schedule" in SERVICES["worker"]["command"]
    assert ONE_SHOT == {"migrate"}


@of_every(SERVICES)
def test_an_image_is_pinned_by_its_tag(service: dict[str, Any]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert is_pinned(service["image"])
    assert ("build" in service) == service["image"].startswith("image-gateway")
    if "build" in service:
        assert service["image"].endswith(f":{version}")
        assert re.search(rf"^FROM \S+ AS {service['build']['target']}$", DOCKERFILE, re.MULTILINE)


def test_the_dockerfile_builds_on_images_that_are_pinned_by_their_tag() -> None:
    stages: set[str] = set()
    for image, stage in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE):
        assert image in stages or is_pinned(image), image
        stages.add(stage)

    assert len(stages) == len(re.findall("^FROM ", DOCKERFILE, re.MULTILINE))
    copied_from = set(re.findall(r"--from=(\S+)", DOCKERFILE))
    assert copied_from <= stages


@of_every({name: service for name, service in SERVICES.items() if name not in ONE_SHOT})
def test_a_service_says_whether_it_is_well_and_is_started_again(service: dict[str, Any]) -> None:
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["restart"] == "unless-stopped"


@of_every(SERVICES)
def test_a_service_may_do_no_more_than_it_needs(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges=true" in service["security_opt"]
    assert not {"privileged", "pid", "ipc", "network_mode", "devices"} & set(service)
    assert "mem_limit" in service


def test_only_proxy_and_store_are_published_and_by_default_to_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert set(published) == {"proxy", "minio"}
    for port in [port for ports in published.values() for port in ports]:
        assert re.fullmatch(r"\$\{LISTEN_[A-Z]+:-127\.0\.0\.1:\d+\}:\d+", port)


def test_what_the_proxy_passes_requests_to_are_the_apis_and_the_store() -> None:
    caddyfile = SERVICES["proxy"]["environment"]["CADDYFILE"]
    sites = re.findall(r"reverse_proxy ((?:\S+:\d+ ?)+)", caddyfile)
    apis = {name for name, service in OURS.items() if service["command"] == ["serve"]}

    assert [set(site.split()) for site in sites] == [{f"{name}:8000" for name in apis}, {"minio:9000"}]
    assert "EXPOSE 8000" in DOCKERFILE
    assert "IMAGES_PORT=8000" in DOCKERFILE


def test_only_the_migration_and_minio_itself_have_the_password_of_minios_root() -> None:
    knowing = {name for name, service in SERVICES.items() if "MINIO_ROOT_PASSWORD" in json.dumps(service)}

    assert knowing == {"migrate", "minio"}
    assert ONE_SHOT == {"migrate"}


@of_every(OURS)
def test_the_gateway_and_part_urls_have_keys_of_their_own(service: dict[str, Any]) -> None:
    environment = service["environment"]
    root = SERVICES["minio"]["environment"]["MINIO_ROOT_USER"]

    gateway = urlsplit(re.sub(r"\$\{(\w+)[^}]*\}", r"\1", environment["IMAGES_OBJECT_STORE"]))
    uploads = re.sub(r"\$\{(\w+)[^}]*\}", r"\1", environment["IMAGES_OBJECT_STORE_UPLOAD_KEY"])
    assert (gateway.username, gateway.password) == ("gateway", "MINIO_GATEWAY_PASSWORD")
    assert uploads == "uploads:MINIO_UPLOAD_PASSWORD"
    assert root not in (gateway.username, uploads.partition(":")[0])


def test_the_proxy_keeps_from_the_store_what_would_make_it_copy_or_skip_a_signature() -> None:
    caddyfile = SERVICES["proxy"]["environment"]["CADDYFILE"]
    site = re.search(r"^\{\$\$STORE_SITE\} \{\n(.*?)^\}", caddyfile, re.MULTILINE | re.DOTALL)

    assert site is not None
    lines = [line.strip() for line in site[1].splitlines()]
    assert "request_header -X-Amz-Copy-Source*" in lines
    assert "header X-Amz-Content-Sha256 STREAMING-UNSIGNED-*" in lines
    assert "respond @unsigned 403" in lines
    # Every request goes through the rules, none past them.
    assert lines[-1] == "reverse_proxy minio:9000"
    assert not any(line.startswith(("handle", "route", "@store")) for line in lines)


@pytest.mark.parametrize("name", ["docker-compose.yml", "docs/operating.md"])
def test_the_loop_that_makes_the_secrets_makes_all_of_them(name: str) -> None:
    loop = re.search(r"for name in ((?:[A-Z_]+|\s|\\|#)+); do", (ROOT / name).read_text())

    assert loop is not None
    assert sorted(re.findall("[A-Z_]{2,}", loop[1])) == sorted(SECRETS)


def test_only_the_host_has_a_profile_and_keeps_its_servers_in_a_volume() -> None:
    [name] = [name for name, service in SERVICES.items() if "profiles" in service]
    host = SERVICES[name]

    assert (name, host["profiles"], host["command"]) == ("host", ["servers"], ["host"])
    assert [volume.partition(":")[2] for volume in host["volumes"]] == [host["environment"]["IMAGES_HOST_FOLDER"]]
    # bubblewrap has to work there, too.
    assert host["security_opt"] == SERVICES["worker"]["security_opt"]
    assert not [other for other, service in SERVICES.items() if "host" in service.get("depends_on", {})]


def test_only_the_host_has_qemu_system_and_the_image_without_it_is_built_by_default() -> None:
    stages = re.split("^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]

    with_qemu = [stage.split()[2] for stage in stages if "qemu-system" in stage]
    assert with_qemu == ["host"]
    assert stages[-1].split()[2] == "gateway"
    # Nothing is built on it.
    assert "host" not in [stage.split()[0] for stage in stages]


def test_the_workers_profile_leaves_them_the_system_calls_that_bubblewrap_needs() -> None:
    [profile] = [option for option in SERVICES["worker"]["security_opt"] if option.startswith("seccomp=")]
    rules = json.loads((ROOT / profile.removeprefix("seccomp=")).read_text())
    refused = {name for rule in rules["syscalls"] if "args" not in rule for name in rule["names"]}

    assert rules["defaultAction"] == "SCMP_ACT_ALLOW"
    assert {rule["action"] for rule in rules["syscalls"]} == {"SCMP_ACT_ERRNO"}
    assert {"bpf", "io_uring_setup", "keyctl", "ptrace", "setns"} <= refused
    assert not refused & {"clone", "clone3", "mount", "pivot_root", "prctl", "seccomp", "umount2", "unshare"}
