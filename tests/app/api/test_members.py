"""Members of projects, owners of organizations, and operators."""

import asyncio
from typing import Any

import pytest
from sqlmodel import select

from app.catalog import members
from app.errors import Conflict
from app.lifecycle import ProjectRole
from app.models import Event, Membership, Project
from tests.support.gateway import ADMIN, MEMBER, OPERATOR, READER, STRANGER, Gateway
from tests.support.sharing import act, done, mistake

pytestmark = pytest.mark.anyio

GIVE = "project { revision viewerRole members(first: 10) { nodes { subject role } } }"


async def operator(gateway: Gateway, document: str, **variables: Any) -> Any:
    """What an operator without any membership sees."""
    headers = {"Authorization": f"Bearer {gateway.tokens.issue('ops', operator=True)}"}
    answer = await gateway.client.post("/graphql", json={"query": document, "variables": variables}, headers=headers)
    return answer.json()["data"]


async def roles(gateway: Gateway, project: str) -> dict[str, ProjectRole]:
    async with gateway.database.read() as session:
        found = (await session.execute(select(Membership).where(Membership.project_id == project))).scalars()
        return {member.subject: member.role for member in found}


async def test_an_admin_adds_changes_and_removes_members(gateway: Gateway) -> None:
    project = await gateway.project()
    given = await done(gateway, "setProjectMember", give=GIVE, projectId=project, subject="new", role="READER")
    assert given["members"]["nodes"] == [{"subject": ADMIN, "role": "ADMIN"}, {"subject": "new", "role": "READER"}]
    raised = await done(gateway, "setProjectMember", give=GIVE, projectId=project, subject="new", role="ADMIN")
    assert raised["revision"] == given["revision"] + 1
    await done(gateway, "removeProjectMember", projectId=project, subject="new")
    assert await roles(gateway, project) == {ADMIN: ProjectRole.ADMIN}


async def test_to_give_the_same_role_again_changes_nothing(gateway: Gateway) -> None:
    project = await gateway.project()
    given = {"projectId": project, "subject": "new", "role": "MEMBER"}
    before = await done(gateway, "setProjectMember", give=GIVE, **given)
    assert await done(gateway, "setProjectMember", give=GIVE, **given) == before


@pytest.mark.parametrize("subject", [READER, MEMBER])
async def test_it_takes_an_admin(gateway: Gateway, subject: str) -> None:
    for name, given in (("setProjectMember", {"role": "ADMIN"}), ("removeProjectMember", {})):
        refused = await mistake(gateway, name, subject, projectId=gateway.alpha, subject=READER, **given)
        assert (refused["code"], refused["field"]) == ("FORBIDDEN", ["projectId"])
        assert "ADMIN" in refused["message"]


async def test_the_last_admin_stays(gateway: Gateway) -> None:
    project = await gateway.project()
    for name, given in (("removeProjectMember", {}), ("setProjectMember", {"role": "MEMBER"})):
        refused = await mistake(gateway, name, projectId=project, subject=ADMIN, **given)
        assert (refused["code"], refused["field"]) == ("CONFLICT", ["subject"])
        assert refused["hint"] == "Make another member an admin first."


@pytest.mark.parametrize("caller", [ADMIN, "olive", OPERATOR])
async def test_the_last_admin_can_not_be_demoted_by_any_caller(gateway: Gateway, caller: str) -> None:
    project = await gateway.project()
    await members.set_owner(gateway.database, "demo", "olive", owns=True)
    for name, given in (
        ("removeProjectMember", {}),
        ("setProjectMember", {"role": "MEMBER"}),
        ("setProjectMember", {"role": "READER"}),
    ):
        refused = await mistake(gateway, name, caller, projectId=project, subject=ADMIN, **given)
        assert (refused["code"], refused["field"]) == ("CONFLICT", ["subject"])
    assert await roles(gateway, project) == {ADMIN: ProjectRole.ADMIN}


async def test_of_two_admins_who_demote_each_other_at_once_one_stays(gateway: Gateway) -> None:
    for _ in range(5):
        project = await gateway.project()
        await done(gateway, "setProjectMember", projectId=project, subject="second", role="ADMIN")
        payloads = await asyncio.gather(
            act(gateway, "setProjectMember", projectId=project, subject="second", role="MEMBER"),
            act(gateway, "setProjectMember", "second", projectId=project, subject=ADMIN, role="READER"),
        )
        codes = [error["code"] for payload in payloads for error in payload["userErrors"]]
        assert codes == ["FORBIDDEN"]
        assert list((await roles(gateway, project)).values()).count(ProjectRole.ADMIN) == 1


@pytest.mark.parametrize("role", [ProjectRole.MEMBER, ProjectRole.READER])
async def test_an_operator_can_not_appoint_the_last_admin_to_less(gateway: Gateway, role: ProjectRole) -> None:
    project = await gateway.project()
    async with gateway.database.read() as session:
        name = (await session.get_one(Project, project)).name

    with pytest.raises(Conflict, match="ada is the last admin of the project"):
        await members.grant_role(gateway.database, name, ADMIN, role)

    assert await roles(gateway, project) == {ADMIN: ProjectRole.ADMIN}
    await members.grant_role(gateway.database, name, "second", ProjectRole.ADMIN)
    await members.grant_role(gateway.database, name, ADMIN, role)
    assert await roles(gateway, project) == {ADMIN: role, "second": ProjectRole.ADMIN}


async def test_the_last_owner_stays_while_a_project_has_no_admin(gateway: Gateway) -> None:
    await members.create_organization(gateway.database, "governed", ["led", "unled"], None, "boss")
    await members.grant_role(gateway.database, "led", ADMIN, ProjectRole.ADMIN)

    with pytest.raises(Conflict, match="boss is the last owner of governed, and its project unled has no admin"):
        await members.set_owner(gateway.database, "governed", "boss", owns=False)

    await members.set_owner(gateway.database, "governed", "other", owns=True)
    await members.set_owner(gateway.database, "governed", "boss", owns=False)
    await members.grant_role(gateway.database, "unled", ADMIN, ProjectRole.ADMIN)
    await members.set_owner(gateway.database, "governed", "other", owns=False)


async def test_of_two_admins_who_remove_each_other_at_once_one_stays(gateway: Gateway) -> None:
    for _ in range(5):
        project = await gateway.project()
        await done(gateway, "setProjectMember", projectId=project, subject="second", role="ADMIN")
        payloads = await asyncio.gather(
            act(gateway, "removeProjectMember", projectId=project, subject="second"),
            act(gateway, "removeProjectMember", "second", projectId=project, subject=ADMIN),
        )
        codes = [error["code"] for payload in payloads for error in payload["userErrors"]]
        assert codes in (["CONFLICT"], ["NOT_FOUND"])
        assert list((await roles(gateway, project)).values()) == [ProjectRole.ADMIN]


async def test_a_subject_who_is_not_a_member_can_not_be_removed(gateway: Gateway) -> None:
    for nobody in ("nobody", "", "\ud800", "\0"):
        refused = await mistake(gateway, "removeProjectMember", projectId=gateway.alpha, subject=nobody)
        assert (refused["code"], refused["field"]) == ("NOT_FOUND", ["subject"])


@pytest.mark.parametrize("subject", ["", " ada", "x" * 256, "a\nb", "\ud800"])
async def test_a_subject_that_no_token_has_is_refused(gateway: Gateway, subject: str) -> None:
    refused = await mistake(gateway, "setProjectMember", projectId=gateway.alpha, subject=subject, role="READER")
    assert (refused["code"], refused["field"]) == ("INVALID", ["subject"])


async def test_who_expects_another_revision_of_the_project_changes_nothing(gateway: Gateway) -> None:
    project = await gateway.project()
    given = {"projectId": project, "subject": "new"}
    refused = await mistake(gateway, "setProjectMember", **given, role="READER", expectedRevision=7)
    assert (refused["code"], refused["field"]) == ("STALE_REVISION", ["expectedRevision"])
    await done(gateway, "setProjectMember", **given, role="READER", expectedRevision=1)
    assert (await mistake(gateway, "removeProjectMember", **given, expectedRevision=1))["code"] == "STALE_REVISION"
    await done(gateway, "removeProjectMember", **given, expectedRevision=2)


async def test_who_removes_themselves_is_answered_without_the_project(gateway: Gateway) -> None:
    project = await gateway.project()
    await done(gateway, "setProjectMember", projectId=project, subject="second", role="ADMIN")
    payload = await act(gateway, "removeProjectMember", give=GIVE, projectId=project, subject=ADMIN)
    assert (payload["userErrors"], payload["project"]) == ([], None)
    assert payload["cursor"]


async def test_changes_of_members_are_stored_and_not_sent_to_watchers_of_images(gateway: Gateway) -> None:
    project = await gateway.project()
    await done(gateway, "setProjectMember", projectId=project, subject="new", role="READER")
    async with gateway.database.read() as session:
        (event,) = (await session.execute(select(Event).where(Event.feed == project))).scalars()
    assert (event.kind, event.actor) == ("MEMBERS_CHANGED", ADMIN)
    document = "query ($id: ID!) { imageEvents(projectId: $id, first: 5) { nodes { cursor } } }"
    assert (await gateway.ask(document, id=project))["imageEvents"]["nodes"] == []


# ---------------------------------------------------------------- owners and operators


async def test_an_owner_administers_every_project_of_the_organization_later_ones_too(gateway: Gateway) -> None:
    await members.create_organization(gateway.database, "owned", [], None, "boss")
    (project,) = await members.create_organization(gateway.database, "owned", ["first"], None)
    document = """{ viewer { operator projects(first: 5) { totalCount nodes { id viewerRole
        organization { name viewerIsOwner } } } } }"""
    viewer = (await gateway.ask(document, "boss"))["viewer"]
    assert viewer == {"operator": False, "projects": {"totalCount": 1, "nodes": [{
        "id": project.id, "viewerRole": "ADMIN", "organization": {"name": "owned", "viewerIsOwner": True},
    }]}}  # fmt: skip
    await done(gateway, "setProjectMember", "boss", projectId=project.id, subject="boss", role="READER")
    viewer = (await gateway.ask(document, "boss"))["viewer"]
    assert viewer["projects"]["totalCount"] == 1
    assert viewer["projects"]["nodes"][0]["viewerRole"] == "ADMIN"
    assert (await gateway.refused("query ($id: ID!) { project(id: $id) { id } }", "boss", id=gateway.alpha))[
        "code"
    ] == ("NOT_FOUND")


async def test_an_organization_without_projects_is_seen_by_its_owner_alone(gateway: Gateway) -> None:
    await members.create_organization(gateway.database, "empty", [], None, "boss")
    (project,) = await members.create_organization(gateway.database, "empty", ["later"], None)
    node = "query ($id: ID!) { node(id: $id) { ... on Organization { name viewerIsOwner } } }"
    assert (await gateway.ask(node, "boss", id=project.organization_id))["node"]["viewerIsOwner"] is True
    assert (await gateway.refused(node, STRANGER, id=project.organization_id))["code"] == "NOT_FOUND"


async def test_an_operator_administers_everything(gateway: Gateway) -> None:
    document = """query ($id: ID!) { viewer { operator } project(id: $id) { viewerRole
        organization { name viewerIsOwner projects(first: 100) { totalCount } } } }"""
    found = await operator(gateway, document, id=gateway.alpha)
    assert found["viewer"] == {"operator": True}
    assert found["project"]["viewerRole"] == "ADMIN"
    assert found["project"]["organization"]["viewerIsOwner"] is False
    async with gateway.database.read() as session:
        projects = (await session.execute(select(Project.id))).scalars().all()
    everywhere = await operator(gateway, "{ viewer { projects(first: 100) { totalCount } } }")
    assert everywhere["viewer"]["projects"]["totalCount"] == len(projects)


async def test_the_same_subject_without_the_claim_has_no_rights(gateway: Gateway) -> None:
    assert (await gateway.refused("query ($id: ID!) { project(id: $id) { id } }", "ops", id=gateway.alpha))["code"] == (
        "NOT_FOUND"
    )
