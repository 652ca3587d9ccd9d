"""What tests of sharing, members, limits and copies ask for, in few words."""

from typing import Any

from app.catalog import members
from app.lifecycle import ProjectRole
from app.models import Project
from app.sizes import MIB
from tests.support.gateway import ADMIN, STRANGER, Gateway

SHARE = "id grant state revision sharedBy imageName image { id name visibility } project { id name }"
FEED = """query ($project: ID!, $image: ID) { imageEvents(projectId: $project, imageId: $image, last: 100) { nodes {
  __typename cursor actor imageId image { id }
  ... on ImageUpdated { fields } ... on ImageShareChanged { state grant imageName project { id } share { id } } } } }"""


async def act(gateway: Gateway, name: str, subject: str = ADMIN, /, give: str = "", **given: Any) -> dict[str, Any]:
    """The payload of a mutation; `give` is the selection in addition to cursor and userErrors."""
    kind = name[0].upper() + name[1:]
    document = f"""mutation ($input: {kind}Input!) {{ {name}(input: $input) {{
        cursor userErrors {{ __typename code message field hint }} {give} }} }}"""
    payload: dict[str, Any] = (await gateway.ask(document, subject, input=given))[name]
    return payload


async def done(gateway: Gateway, name: str, subject: str = ADMIN, /, give: str = "", **given: Any) -> Any:
    """The result of a mutation that succeeds: the first field of `give`, or the cursor."""
    payload = await act(gateway, name, subject, give=give, **given)
    assert payload["userErrors"] == []
    return payload[give.split()[0]] if give else payload["cursor"]


async def mistake(gateway: Gateway, name: str, subject: str = ADMIN, /, **given: Any) -> dict[str, Any]:
    """The one mistake of a mutation that changes nothing."""
    before = await gateway.everything()
    payload = await act(gateway, name, subject, **given)
    assert payload["cursor"] is None
    assert await gateway.everything() == before
    (found,) = payload["userErrors"]
    return dict(found)


async def share(
    gateway: Gateway, image: dict[str, Any], project: str, grant: str = "LAUNCH", subject: str = ADMIN, **given: Any
) -> dict[str, Any]:
    """A new share of an image."""
    made: dict[str, Any] = await done(
        gateway,
        "shareImage",
        subject,
        give=f"share {{ {SHARE} }}",
        imageId=image["id"],
        projectId=project,
        grant=grant,
        **given,
    )
    return made


async def neighbour(gateway: Gateway, **roles: ProjectRole) -> str:
    """A project of the same organization that ADMIN does not belong to: STRANGER administers it, and others as said."""
    project = await gateway.project()
    async with gateway.database.read() as session:
        name = (await session.get_one(Project, project)).name
    await members.grant_role(gateway.database, name, STRANGER, ProjectRole.ADMIN)
    for subject, role in roles.items():
        await members.grant_role(gateway.database, name, subject, role)
    await done(gateway, "removeProjectMember", STRANGER, projectId=project, subject=ADMIN)
    return project


async def far_away(gateway: Gateway) -> str:
    """A project of another organization, which STRANGER administers."""
    (project,) = await members.create_organization(gateway.database, "elsewhere", ["gamma"], STRANGER)
    return project.id


async def feed_of(gateway: Gateway, project: str, image: dict[str, Any], subject: str = ADMIN) -> list[dict[str, Any]]:
    """The events of an image in the feed of a project."""
    page = await gateway.ask(FEED, subject, project=project, image=image["id"])
    nodes: list[dict[str, Any]] = page["imageEvents"]["nodes"]
    return nodes


async def sees(gateway: Gateway, subject: str, image: dict[str, Any]) -> bool:
    """Whether a caller sees an image."""
    answer = await gateway.answer("query ($id: ID!) { image(by: {id: $id}) { id } }", subject, id=image["id"])
    return bool(answer["data"]["image"])


async def storage(gateway: Gateway, project: str) -> dict[str, int]:
    """The limit on stored bytes of a project, and what is used and promised of it, in MiB."""
    document = "query ($id: ID!) { project(id: $id) { quota { imageStorage { limit used reserved } } } }"
    found = (await gateway.ask(document, id=project))["project"]["quota"]["imageStorage"]
    return {name: size // MIB for name, size in found.items()}
