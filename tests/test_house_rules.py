"""Rules of the tree itself, which no other tool looks after."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
TOP_LEVEL = {
    ".ci",
    ".dockerignore",
    ".editorconfig",
    ".github",
    ".gitignore",
    ".pre-commit-config.yaml",
    "Dockerfile",
    "LICENSE",
    "Makefile",
    "README.md",
    "app",
    "docs",
    "docker-compose.yml",
    "pyproject.toml",
    "requirements-dev.txt",
    "requirements.txt",
    "schema.graphql",
    "tests",
    "workers",
}
# Put together here, so that this file does not name them either.
REGISTRIES = [".".join(name) for name in [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org")]]
INDEX_OPTIONS = r"(?<!emit-)(--(?:extra-)?index|index[-_]url|--find-links|registry *=)"


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """What is in version control, or about to be; without git, there is nothing to say."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a checkout of version control")
    # The owner of a checkout is somebody else in many a container, and git would refuse to look.
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True, timeout=60).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.exists()]


def pinned(name: str) -> dict[str, Requirement]:
    """The requirements of a compiled file, by name. Fails when one of them has no version or no hash."""
    found: dict[str, Requirement] = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / name).read_text().strip()):
        line, *hashes = entry.split("\\\n")
        requirement = Requirement(line)
        assert str(requirement.specifier).startswith("=="), f"{name}: {line} is not pinned"
        assert hashes, f"{name}: {line} has no hash"
        assert all(digest.strip().startswith("--hash=sha256:") for digest in hashes), f"{name}: {line}"
        found[canonicalize_name(requirement.name)] = requirement
    return found


def asked_for(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chosen = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(line) for lines in chosen for line in lines]


def test_the_top_level_holds_nothing_but_what_belongs_there(files: list[Path]) -> None:
    assert {path.relative_to(ROOT).parts[0] for path in files} <= TOP_LEVEL


def test_every_layer_imports_only_what_it_may() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    report = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert report.returncode == 0, report.stdout + report.stderr


def test_no_file_says_where_packages_come_from(files: list[Path]) -> None:
    forbidden = re.compile("|".join([*map(re.escape, REGISTRIES), INDEX_OPTIONS]))
    this_file = Path(__file__)

    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in files
        if path != this_file
        for match in forbidden.finditer(path.read_text("utf-8", errors="replace"))
    }

    assert found == set()


@pytest.mark.parametrize("folder", ["app/web/graphiql", "tests/outside"])
def test_a_lock_file_of_npm_holds_hashes_and_no_addresses(folder: str) -> None:
    packages = json.loads((ROOT / folder / "package-lock.json").read_text())["packages"]
    wanted = json.loads((ROOT / folder / "package.json").read_text())["dependencies"]

    assert packages[""]["dependencies"] == wanted
    installed = {name: package for name, package in packages.items() if name}
    assert [name for name, package in installed.items() if "resolved" in package] == []
    assert [name for name, package in installed.items() if "integrity" not in package] == []


@pytest.mark.parametrize(("name", "extras"), [("requirements.txt", ()), ("requirements-dev.txt", ("dev",))], ids=str)
def test_the_pinned_requirements_are_what_the_project_asks_for(name: str, extras: tuple[str, ...]) -> None:
    pins = pinned(name)

    for wanted in asked_for(*extras):
        pin = pins.get(canonicalize_name(wanted.name))
        assert pin is not None, f"{name} lacks {wanted}: make requirements"
        version = str(pin.specifier).removeprefix("==")
        assert wanted.specifier.contains(version, prereleases=True), f"{name} has {version} for {wanted}"


def test_tests_run_with_the_versions_that_users_get() -> None:
    users, developers = pinned("requirements.txt"), pinned("requirements-dev.txt")

    assert {name: str(developers.get(name)) for name in users} == {
        name: str(requirement) for name, requirement in users.items()
    }


@pytest.mark.parametrize("name", [".ci/tools.txt", ".ci/node.txt", ".ci/go.txt", ".ci/audit.txt", ".ci/codegen.txt"])
def test_what_set_up_build_and_audit_use_is_pinned_too(name: str) -> None:
    assert pinned(name)


def test_the_documentation_names_no_make_target_that_is_missing() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    named = set(re.findall(r"`(?:[A-Z]+=\S+ )*make ([a-z]+)", text))

    assert named <= targets


def test_a_commit_is_checked_by_what_make_check_runs() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    commands = re.findall(r"^\t\$\(BIN\)/(.*)$", recipe[1], re.MULTILINE)

    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]

    assert repository["repo"] == "local"
    entries = [re.sub("^bash -o pipefail -c '(.*)'$", r"\1", hook["entry"]) for hook in repository["hooks"]]
    assert entries == [f".venv/bin/{command}" for command in commands]
