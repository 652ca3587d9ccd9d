"""The commands about sharing, members, limits and history, as several people of one organization run them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import images
from tests.e2e.cli import Cli, clis
from tests.e2e.data_folders import create_organization, token
from tests.e2e.gateway import Gateway

pytestmark = pytest.mark.needs_program("qemu-img")


@dataclass(frozen=True)
class People:
    """Olga owns the organization acme, whose projects ruth (red) and bert (blue) administer; rita reads in blue.

    Zoe administers a project of another organization, `far`; oper is an operator.
    """

    olga: Cli
    ruth: Cli
    bert: Cli
    rita: Cli
    oper: Cli
    red: str
    blue: str
    far: str
    disk: Path

    def image(self, name: str) -> str:
        """The id of a new, ACTIVE image of red."""
        image = self.ruth.done("upload", self.disk, "--name", name)
        assert image["status"] == "ACTIVE"
        return str(image["id"])


@pytest.fixture(scope="module")
def people(running_gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    data = running_gateway.data
    red, blue = create_organization(data, "acme", ["red", "blue"], owner="olga")
    (far,) = create_organization(data, "elsewhere", ["far"], admin="zoe")
    folder = tmp_path_factory.mktemp("people")
    with clis(folder) as make:

        def person(subject: str, project: str, *, operator: bool = False) -> Cli:
            own = {"IMAGES_URL": running_gateway.url, "IMAGES_TOKEN": token(data, subject, operator=operator)}
            return make(data / "connection.json", project, **own)

        olga = person("olga", "red")
        for subject, role, project in (("ruth", "admin", red), ("bert", "admin", blue), ("rita", "reader", blue)):
            olga.done("member", subject, role, "--project", project)
        disk = images.empty_qcow2(folder / "disk.qcow2", "1M")
        yield People(
            olga=olga,
            ruth=person("ruth", "red"),
            bert=person("bert", "blue"),
            rita=person("rita", "blue"),
            oper=person("oper", "blue", operator=True),
            red=red,
            blue=blue,
            far=far,
            disk=disk,
        )


def names(cli: Cli) -> set[str]:
    """What the images are called that a user's project sees."""
    return {image["name"] for image in cli.done("list")}


def only(found: list[dict[str, Any]]) -> dict[str, Any]:
    (one,) = found
    return one


def test_a_shared_image_can_be_seen_and_copied_and_only_the_copy_outlives_the_share(people: People) -> None:
    web = people.image("web")
    assert "web" not in names(people.bert)

    share = people.olga.done("share", "web", "--with", "blue")
    assert (share["state"], share["grant"], share["sharedBy"]) == ("ACCEPTED", "LAUNCH", "olga")
    assert only(people.ruth.done("shares", "web")) == share

    seen = people.bert.done("show", "web")
    assert (seen["id"], seen["visibility"], seen["project"]) == (web, "SHARED", None)
    assert seen["viewerCan"] == {"launch": True, "edit": False, "share": False, "delete": False}
    assert people.rita.refused("copy", "web", "mine") == (4, "FORBIDDEN")
    copy = people.bert.done("copy", "web", "pinned web", "--idempotency-key", "k1")
    assert (copy["status"], copy["project"]["name"], copy["source"]["image"]["id"]) == ("ACTIVE", "blue", web)
    assert people.bert("copy", web, "pinned web", "--idempotency-key", "k1").out.split()[-1] == copy["id"]

    assert people.ruth.done("unshare", "web", "--with", "blue")["revokedShareId"] == share["id"]
    assert people.bert("show", web).code == 6
    assert names(people.bert) & {"web", "pinned web"} == {"pinned web"}
    assert "copy of           web" in people.bert("show", "pinned web").out.splitlines()
    assert people.ruth.done("shares", "web") == []
    assert people.ruth.refused("unshare", "web", "--with", "blue") == (6, "NOT_FOUND")
    assert people.ruth.done("show", "web")["visibility"] == "PROJECT"


def test_sharing_again_changes_the_grant_and_changes_nothing_when_it_is_the_same(people: People) -> None:
    people.image("tools")
    share = people.olga.done("share", "tools", "--with", "blue")

    assert people.olga.done("share", "tools", "--with", people.blue) == share
    # Who administers the image's project may change a share, and need not be anything in the other one.
    more = people.ruth.done("share", "tools", "--with", "blue", "--edit")
    assert (more["id"], more["grant"], more["state"]) == (share["id"], "LAUNCH_AND_EDIT", "ACCEPTED")
    assert people.bert.done("show", "tools")["viewerCan"]["edit"] is True
    less = people.ruth("share", "tools", "--with", "blue")
    assert (less.code, less.out) == (0, f"tools is shared with blue, to launch: {share['id']}\n")

    listed = people.ruth("shares", "tools").out.splitlines()
    assert [line.split()[0] for line in listed] == ["PROJECT", "blue"]
    assert people.bert.refused("shares", "tools") == (4, "FORBIDDEN")
    assert people.bert.refused("share", "tools", "--with", people.red) == (4, "FORBIDDEN")


def test_an_offer_is_seen_by_admins_alone_and_stands_until_it_is_answered(people: People) -> None:
    base = people.image("base")

    assert people.ruth.refused("share", "base", "--with", "blue") == (6, "NOT_FOUND"), "ruth sees no such project"
    assert people.ruth.refused("share", "base", "--with", people.blue) == (4, "NOT_TARGET_ADMIN")
    assert "--offer" in people.ruth("share", "base", "--with", people.blue).err
    assert people.ruth.done("shares", "base") == []

    offer = people.ruth.done("share", "base", "--with", people.blue, "--offer")
    assert (offer["state"], offer["project"]["name"]) == ("OFFERED", "blue")
    seen = only([share for share in people.bert.done("offers") if share["imageName"] == "base"])
    assert (seen["id"], seen["image"], seen["sharedBy"]) == (offer["id"], None, "ruth")
    assert "base" in people.bert("offers").out
    assert people.rita.refused("offers") == (4, "FORBIDDEN")
    assert people.bert("show", base).code == 6

    accepted = people.bert("accept", "Base")
    assert (accepted.code, accepted.out) == (0, f"base is shared with blue, to launch: {offer['id']}\n")
    assert people.rita.done("show", "base")["id"] == base
    # What a pipeline says every time holds, and is no offer again.
    assert people.ruth.done("share", "base", "--with", "blue", "--offer")["state"] == "ACCEPTED"
    assert people.bert.refused("accept", "base") == (6, "NOT_FOUND")

    assert people.rita.refused("decline", offer["id"]) == (4, "NOT_TARGET_ADMIN")
    assert people.bert.done("decline", offer["id"])["state"] == "DECLINED"
    assert people.rita("show", "base").code == 6
    assert people.bert.refused("accept", offer["id"]) == (3, "CONFLICT")
    assert only(people.ruth.done("shares", "base"))["state"] == "DECLINED"


def test_nothing_is_shared_with_another_organization(people: People) -> None:
    people.image("ours")

    assert people.ruth.refused("share", "ours", "--with", people.far, "--offer") == (3, "DIFFERENT_ORGANIZATION")
    assert people.ruth.done("shares", "ours") == []


def test_members_come_and_go_and_the_last_admin_stays(people: People) -> None:
    def roles() -> dict[str, str]:
        return {member["subject"]: member["role"] for member in people.rita.done("members")}

    before = roles()
    assert before == {"bert": "ADMIN", "rita": "READER"}
    added = people.bert.done("member", "mona", "MEMBER")
    assert (added["subject"], added["role"], added["project"]["id"]) == ("mona", "MEMBER", people.blue)
    assert people.bert("member", "mona", "reader").out == "mona is READER of blue\n"
    assert roles() == before | {"mona": "READER"}
    assert "mona" in people.rita("members").out

    assert people.bert("member", "mona", "--remove").out == "mona is no longer a member of blue\n"
    assert people.bert.refused("member", "mona", "--remove") == (6, "NOT_FOUND")
    assert people.bert.refused("member", "bert", "reader") == (3, "CONFLICT")
    assert people.bert.refused("member", "bert", "--remove") == (3, "CONFLICT")
    assert people.rita.refused("member", "rita", "admin") == (4, "FORBIDDEN")
    assert people.bert.refused("member", "rita") == (2, "CONFIGURATION")
    assert people.bert.refused("member", "rita", "admin", "--remove") == (2, "CONFIGURATION")
    assert people.bert("member", "rita", "boss").code == 2
    assert roles() == before


def test_the_projects_that_somebody_sees_are_listed_with_what_they_are_there(people: People) -> None:
    def seen(cli: Cli) -> dict[str, str]:
        return {project["id"]: project["viewerRole"] for project in cli.done("projects")}

    assert seen(people.rita) == {people.blue: "READER"}
    assert seen(people.olga) == {people.red: "ADMIN", people.blue: "ADMIN"}
    assert {people.red, people.blue, people.far} < set(seen(people.oper))
    assert people.blue in people.rita("projects").out


def test_limits_are_set_by_owners_and_operators_and_hold_at_once(people: People) -> None:
    def limits(quota: dict[str, Any]) -> tuple[int, int, int]:
        return quota["customImages"]["limit"], quota["imageStorage"]["limit"], quota["snapshotsPerVolume"]

    image = people.image("limited")
    people.olga.done("share", "limited", "--with", "blue")
    usual = people.rita.done("quota")
    assert usual["project"] == {"id": people.blue, "name": "blue"}
    assert people.bert.refused("quota", "--custom-images", "1000") == (4, "FORBIDDEN")

    used = usual["customImages"]["used"]
    assert people.olga.done("quota", "-p", "blue", "--custom-images", str(used), "--storage-gib", "7")
    assert limits(people.rita.done("quota")) == (used, 7 << 30, usual["snapshotsPerVolume"])
    assert f"{used} of {used}" in people.rita("quota").out
    assert people.bert.refused("copy", image, "one too many") == (3, "QUOTA_EXCEEDED")
    assert "one too many" not in names(people.bert)

    people.oper.done("quota", "--custom-images", "default", "--snapshots-per-volume", "3")
    assert limits(people.rita.done("quota")) == (usual["customImages"]["limit"], 7 << 30, 3)
    assert people.bert("copy", image, "not too many").code == 0
    people.olga.done("quota", "-p", "blue", "--storage-gib", "DEFAULT", "--snapshots-per-volume", "default")
    assert limits(people.rita.done("quota")) == limits(usual)
    for wrong in ("-1", "many", "1.5", str(2**31)):
        assert people.olga.refused("quota", f"--custom-images={wrong}") == (2, "CONFIGURATION")


def test_the_history_tells_who_did_what_also_to_what_is_gone(people: People) -> None:
    known = people.image("known")
    people.olga.done("share", "known", "--with", "blue")

    events = people.ruth.done("history", "known")
    assert {event["imageId"] for event in events} == {known}
    listed = [(event["__typename"], event["actor"]) for event in events]
    assert listed[0] == ("ImageCreated", "ruth")
    assert ("ImageShareChanged", "olga") in listed
    assert ("ImageStatusChanged", None) in listed, "workers are no actor"
    assert people.ruth.done("history", "-n", "2") == events[-2:]
    lines = people.ruth("history", "known").out.splitlines()
    assert lines[0].endswith("known: created (by ruth)")
    assert any(line.endswith("known: shared with blue, to launch (by olga)") for line in lines)
    assert only(people.bert.done("history", "known", "--last", "1"))["imageId"] == known

    assert people.ruth("delete", "known", "--yes").code == 0
    gone = only(people.ruth.done("history", known, "--last", "1"))
    assert (gone["__typename"], gone["imageName"], gone["actor"]) == ("ImageDeleted", "known", "ruth")
    assert people.ruth.refused("history", "known") == (6, "NOT_FOUND")
    assert people.rita.refused("history", "--project", "red") == (6, "NOT_FOUND")


def test_a_bill_names_the_images_of_the_project_those_that_are_gone_too(people: People) -> None:
    billed = people.image("billed")
    assert people.ruth("delete", billed, "--yes").code == 0

    bill = people.ruth.done("usage")
    line = only([line for line in bill["byImage"] if line["imageName"] == "billed"])
    assert (line["image"], line["cost"]) == (None, {"amount": "0.000000", "currency": "EUR"})
    assert bill["project"]["id"] == people.red
    assert people.ruth("usage").out.splitlines()[-1].startswith("total ")
    assert people.ruth.refused("usage", "--from", "2026-02-01", "--to", "2026-01-01") == (3, "INVALID")
    assert people.rita.refused("usage", "--project", "red") == (6, "NOT_FOUND")
