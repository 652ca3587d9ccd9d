"""The commands about a project, as they are typed: what they ask for, and what they print."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from app.client.commands import usage
from app.client.errors import Misconfigured
from tests.support.scripted_server import Reply, data
from tests.support.typed_commands import PROJECT, ran

LIMITED = PROJECT | {"revision": 1}
QUOTA = {
    "customImages": {"limit": 50, "used": 3},
    "imageStorage": {"limit": 500 << 30, "used": 3 << 29, "reserved": 1 << 30},
    "snapshotsPerVolume": 100,
    "servers": {"limit": 20, "used": 2},
    "volumes": {"limit": 100, "used": 4},
    "volumeStorage": {"limit": 1000 << 30, "used": 3 << 29},
}
EUR = {"amount": "0.500000", "currency": "EUR"}


def limited() -> Reply:
    return data(setProjectQuota={"project": LIMITED | {"quota": QUOTA}, "userErrors": []})


def test_a_quota_is_shown_for_people_and_for_programs() -> None:
    answer = data(project=LIMITED | {"quota": QUOTA})

    people, programs = ran("quota", Quota=[answer]), ran("quota", "--json", Quota=[answer])

    assert people.out.splitlines() == [
        "project               alpha (prj_1)",
        "custom images         3 of 50",
        "image storage         1.5 GiB of 500.0 GiB, and 1.0 GiB reserved for uploads",
        "snapshots per volume  the newest 100 are kept",
        "servers               2 of 20",
        "volumes               4 of 100",
        "volume storage        1.5 GiB of 1000.0 GiB",
    ]
    assert json.loads(programs.out) == {"project": PROJECT, **QUOTA}


def test_a_single_snapshot_is_shown_in_the_singular() -> None:
    answer = data(project=LIMITED | {"quota": QUOTA | {"snapshotsPerVolume": 1}})

    assert "snapshots per volume  the newest is kept" in ran("quota", Quota=[answer]).out.splitlines()


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        (("--custom-images", "7"), {"customImages": 7}),
        (("--storage-gib", "0", "--snapshots-per-volume", "9"), {"imageStorageGib": 0, "snapshotsPerVolume": 9}),
        (("--custom-images", "default", "--storage-gib", "1"), {"customImages": None, "imageStorageGib": 1}),
        (
            ("--servers", "2", "--volumes", "default", "--volume-storage-gib", "5"),
            {"servers": 2, "volumes": None, "volumeStorageGib": 5},
        ),
    ],
)
def test_only_the_limits_that_are_said_are_set_and_null_is_the_default(
    said: tuple[str, ...], sent: dict[str, Any]
) -> None:
    run = ran("quota", *said, SetQuota=[limited()])

    assert run.code == 0
    assert [asked.variables["input"] for asked in run.asked] == [{"projectId": "prj_1", **sent}]


@pytest.mark.parametrize("wrong", ["", "many", "1.5", "٣", str(2**31), "1e3"])
def test_what_is_no_limit_is_refused_before_anything_is_asked(wrong: str) -> None:
    run = ran("quota", f"--custom-images={wrong}", "--json")

    assert (run.code, run.asked) == (2, [])
    assert json.loads(run.out)["error"]["code"] == "CONFIGURATION"


@pytest.mark.parametrize(
    ("said", "operation", "name", "role"),
    [
        (("ADMIN",), "SetMember", "setProjectMember", "ADMIN"),
        (("--remove",), "RemoveMember", "removeProjectMember", None),
    ],
)
def test_a_member_is_given_a_role_or_removed(
    said: tuple[str, ...], operation: str, name: str, role: str | None
) -> None:
    run = ran("member", "ada", *said, "--json", **{operation: [data(**{name: {"project": LIMITED, "userErrors": []}})]})

    assert json.loads(run.out) == {"subject": "ada", "role": role, "project": LIMITED}
    given = {"projectId": "prj_1", "subject": "ada"}
    assert [asked.variables["input"] for asked in run.asked] == [given if role is None else given | {"role": role}]


@pytest.mark.parametrize("said", [(), ("admin", "--remove")])
def test_a_member_needs_either_a_role_or_to_be_removed(said: tuple[str, ...]) -> None:
    run = ran("member", "ada", *said, "--json")

    assert (run.code, run.asked) == (2, [])


def used(*lines: str, cost: str, more: str | None = None) -> Reply:
    nodes = [
        {"imageName": name, "image": {"id": f"img_{name}"} if name != "old" else None, "gibHours": 1.5, "cost": EUR}
        for name in lines
    ]
    bill = {"from": "2026-07-01T00:00:00Z", "to": "2026-08-01T00:00:00Z", "gibHours": 3, "cost": EUR | {"amount": cost}}
    page = {"nodes": nodes, "pageInfo": {"hasNextPage": more is not None, "endCursor": more}}
    return data(project=PROJECT | {"usage": bill | {"byImage": page}})


def test_a_bill_has_a_line_for_each_image_and_the_total_of_the_first_page() -> None:
    dates = ("--from", "2026-07-01", "--to", "2026-08-01T02:00:00+02:00")

    def pages() -> list[Reply]:
        # What is still stored has cost more by the time of the second page.
        return [used("web", cost="1.000000", more="c1"), used("old", cost="1.000001")]

    people, programs = ran("usage", *dates, Usage=pages()), ran("usage", *dates, "--json", Usage=pages())

    assert [line.split() for line in people.out.splitlines()] == [
        ["alpha,", "from", "2026-07-01T00:00:00Z", "to", "2026-08-01T00:00:00Z"],
        ["IMAGE", "GiB", "HOURS", "COST", "ID"],
        ["web", "1.500", "0.500000", "EUR", "img_web"],
        ["old", "1.500", "0.500000", "EUR", "deleted"],
        ["total", "3.000", "1.000000", "EUR"],
    ]
    bill = json.loads(programs.out)
    assert (bill["project"], bill["cost"]["amount"]) == (PROJECT, "1.000000")
    assert [line["imageName"] for line in bill["byImage"]] == ["web", "old"]
    asked = {name: [one.variables[name] for one in people.asked] for name in ("since", "until", "after")}
    assert asked == {
        "since": ["2026-07-01T00:00:00+00:00"] * 2,
        "until": ["2026-08-01T00:00:00+00:00"] * 2,
        "after": [None, "c1"],
    }


@pytest.mark.parametrize(
    ("since", "until", "interval"),
    [
        (None, None, ("2026-12-01", "2027-01-01")),
        ("2026-03-04", None, ("2026-03-04", "2027-01-01")),
        (None, "2026-03-01", ("2026-02-01", "2026-03-01")),
        (None, "2026-03-02", ("2026-03-01", "2026-03-02")),
        ("2026-03-01T01:00:00+01:00", "2026-03-02", ("2026-03-01", "2026-03-02")),
        (None, "0001-01-01", ("0001-01-01", "0001-01-01")),
    ],
)
def test_a_bill_is_of_the_calendar_month_unless_something_else_is_said(
    since: str | None, until: str | None, interval: tuple[str, str]
) -> None:
    found = usage.interval_of(since, until, datetime(2026, 12, 31, 23, 59, tzinfo=UTC))

    assert found == tuple(datetime.fromisoformat(day).replace(tzinfo=UTC) for day in interval)


@pytest.mark.parametrize("wrong", ["", "july", "2026", "2026-02-30", "0001-01-01T00:00:00+05:00"])
def test_what_is_no_date_is_refused(wrong: str) -> None:
    with pytest.raises(Misconfigured):
        usage.interval_of(wrong, None, datetime.now(UTC))
