"""How many pages of fifty images one process returns per second, against Strawberry with a list in memory."""

from collections.abc import Sequence
from pathlib import Path

from tests.bench.asking import CONNECTIONS, Host, Rate, asked, connected, rate, request
from tests.bench.disks import DISKS, write_disk
from tests.bench.figures import Figure, Report, middle
from tests.bench.following import following
from tests.bench.scale import Scale
from tests.bench.serving import Gateway, MeasurementFailed, running_bare, running_gateway
from tests.bench.uploading import complete, create, send

PAGE = 50
# The issue asks for 250 requests per second where plain Strawberry reaches 450.
_GOAL = 250 / 450
FIELDS = "id name type status visibility virtualSize minBootDiskGib createdAt os { displayName }"
OURS = f"query Page($project: ID!) {{ images(projectId: $project, first: {PAGE}) {{ nodes {{ {FIELDS} }} }} }}"
_PLAIN = f"{{ images {{ {FIELDS} }} }}"
_COPY = "mutation Copy($input: CreateImageInput!) { createImage(input: $input) { userErrors { message hint } } }"


def measure(scale: Scale) -> Report:
    """Fill a project with ACTIVE images, then ask both in turns for `scale.seconds` each."""
    ours: list[Rate] = []
    plain: list[Rate] = []
    with running_gateway(scale.folder) as gateway, running_bare("pages", scale.folder) as bare:
        _fill(gateway, scale.folder)
        page = request(gateway.host, "/graphql", OURS, {"project": gateway.project_id}, gateway.caller)
        list_ = request(bare.host, "/", _PLAIN, {}, {})
        _check(gateway.host, page, "ACTIVE")
        _check(bare.host, list_, "ACTIVE")
        for _ in range(scale.rounds):
            ours.append(rate(gateway.process, gateway.host, page, scale.seconds))
            plain.append(rate(bare.process, bare.host, list_, scale.seconds))
    return Report(
        title="pages",
        how=f"A page of {PAGE} ACTIVE images over HTTP with 9 fields ({FIELDS}), one process, {CONNECTIONS} "
        f"connections that are kept, {scale.rounds} rounds of {scale.seconds:g} s in turns. Ours reads them from "
        "SQLite, for a caller whose token and project are checked; plain Strawberry has a list in memory. "
        "The client is a few threads of this process and shares the machine with the server; the second line leaves "
        "out what neighbours took.",
        figures=[
            _compared(
                "in a second", [rate.per_second for rate in ours], [rate.per_second for rate in plain], goal=True
            ),
            _compared(
                "in a second of processor time", [rate.of_work for rate in ours], [rate.of_work for rate in plain]
            ),
        ],
    )


def _compared(what: str, ours: Sequence[float], plain: Sequence[float], *, goal: bool = False) -> Figure:
    ratio = middle(ours) / middle(plain)
    measured, against = f"{middle(ours):.0f} requests", f"{middle(plain):.0f} requests"
    if not goal:
        return Figure(what, measured, against, ratio)
    return Figure(what, measured, against, ratio, f"≥ {_GOAL:.2f} (250 of 450)", ratio >= _GOAL)


def _fill(gateway: Gateway, folder: Path) -> None:
    """Fifty images that are ACTIVE: one is uploaded and converted, the others are copies of it."""
    disk = write_disk(DISKS["dense raw"], folder, 1 << 20)
    upload = create(gateway, disk, "RAW")
    with following(gateway, upload.image_id) as follower:
        send(upload.host, disk, upload.parts, at_once=1)
        complete(gateway, upload)
        follower.active_at()
    disk.unlink()
    for number in range(1, PAGE):
        copy = {"projectId": gateway.project_id, "name": f"copy {number}"}
        gateway.ask(_COPY, input={**copy, "source": {"image": {"imageId": upload.image_id}}})


def _check(host: Host, request: bytes, word: str) -> None:
    """Raises MeasurementFailed unless an answer holds a whole page."""
    with connected(host) as connection:
        answer = asked(connection, request)
    if answer.count(word.encode()) != PAGE:
        raise MeasurementFailed(f"not a page of {PAGE}: {answer[:500]!r}")
