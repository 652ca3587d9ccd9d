"""Signed URLs of the folder store: what they still allow after a right was taken away."""

import base64
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlmodel import col, delete

from app.models import Membership, OrganizationOwner, now
from tests.app.conftest import StartGateway
from tests.support.gateway import ADMIN, MEMBER, OPERATOR, READER, STRANGER, Gateway
from tests.support.sharing import done, share

pytestmark = pytest.mark.anyio

DOWNLOAD = "query ($id: ID!) { image(by: {id: $id}) { download { url expiresAt } } }"
CONTENT = bytes(range(256)) * 4096


async def download_of(gateway: Gateway, image: dict[str, Any], subject: str) -> str:
    data = await gateway.ask(DOWNLOAD, subject, id=image["id"])
    url: str = data["image"]["download"]["url"]
    return url


def part_of(image: dict[str, Any]) -> str:
    url: str = image["upload"]["parts"]["nodes"][0]["request"]["url"]
    return url


def error_of(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "hint"}
    assert error["message"]
    assert error["hint"]
    return answer.status_code, error["code"]


async def refused_download(gateway: Gateway, url: str) -> tuple[int, str]:
    """The error of the URL, by GET, with a range, and by HEAD, which has the same status without a body."""
    whole = await gateway.client.get(url)
    part = await gateway.client.get(url, headers={"Range": "bytes=10-19"})
    head = await gateway.client.head(url)
    assert error_of(part) == error_of(whole)
    assert head.status_code == whole.status_code
    return error_of(whole)


async def leave(gateway: Gateway, subject: str, project_id: str) -> None:
    async with gateway.database.transaction() as tx:
        where = (col(Membership.subject) == subject, col(Membership.project_id) == project_id)
        await tx.session.execute(delete(Membership).where(*where))


@pytest.fixture
async def apart(start_gateway: StartGateway) -> Any:
    """A separate gateway for tests that take rights away."""
    async with start_gateway() as running:
        yield running


async def test_addresses_work_for_those_who_have_the_right(gateway: Gateway) -> None:
    image = await gateway.active(CONTENT)

    for subject in (READER, MEMBER, ADMIN, OPERATOR):
        url = await download_of(gateway, image, subject)

        assert (await gateway.client.get(url)).content == CONTENT
        assert (await gateway.client.get(url, headers={"Range": "bytes=10-19"})).content == CONTENT[10:20]
        assert (await gateway.client.head(url)).headers["content-length"] == str(len(CONTENT))


async def test_urls_of_a_removed_member_stop_working(apart: Gateway) -> None:
    image, waiting = await apart.active(CONTENT), await apart.create(MEMBER)
    url = await download_of(apart, image, MEMBER)
    before = apart.files()

    await leave(apart, MEMBER, apart.alpha)

    assert await refused_download(apart, url) == (404, "NOT_FOUND")
    answer = await apart.client.put(part_of(waiting), content=b"\1" * 2**20)
    assert error_of(answer) == (404, "NOT_FOUND")
    assert apart.files() == before


async def test_a_member_who_became_a_reader_still_downloads_and_sends_nothing(apart: Gateway) -> None:
    image, waiting = await apart.active(CONTENT), await apart.create(MEMBER)
    url = await download_of(apart, image, MEMBER)

    await done(apart, "setProjectMember", projectId=apart.alpha, subject=MEMBER, role="READER")

    assert (await apart.client.get(url)).status_code == 200
    answer = await apart.client.put(part_of(waiting), content=b"\1" * 2**20)
    assert error_of(answer) == (403, "FORBIDDEN")


async def test_an_owner_who_is_one_no_longer_reads_nothing(apart: Gateway) -> None:
    image = await apart.active(CONTENT)
    organization = (await apart.ask("query ($id: ID!) { project(id: $id) { organization { id } } }", id=apart.alpha))[
        "project"
    ]["organization"]["id"]
    async with apart.database.transaction() as tx:
        tx.session.add(OrganizationOwner(organization_id=organization, subject="olivia"))
    url = await download_of(apart, image, "olivia")
    assert (await apart.client.get(url)).status_code == 200

    async with apart.database.transaction() as tx:
        await tx.session.execute(delete(OrganizationOwner))

    assert await refused_download(apart, url) == (404, "NOT_FOUND")


async def test_an_address_that_came_through_a_share_ends_with_the_share(gateway: Gateway) -> None:
    image = await gateway.active(CONTENT)
    other = await gateway.project()
    await done(gateway, "setProjectMember", projectId=other, subject=STRANGER, role="READER")
    made = await share(gateway, image, other)
    url = await download_of(gateway, image, STRANGER)
    assert (await gateway.client.get(url)).status_code == 200

    await done(gateway, "revokeImageShare", shareId=made["id"])

    assert await refused_download(gateway, url) == (404, "NOT_FOUND")


async def test_addresses_of_a_deleted_image_are_dead_before_its_bytes_are(gateway: Gateway) -> None:
    image, waiting = await gateway.active(CONTENT), await gateway.create()
    url = await download_of(gateway, image, ADMIN)

    for gone in (image, waiting):
        await done(gateway, "deleteImage", imageId=gone["id"])

    assert await refused_download(gateway, url) == (404, "NOT_FOUND")
    answer = await gateway.client.put(part_of(waiting), content=b"\1" * 2**20)
    assert error_of(answer) == (404, "NOT_FOUND")


async def test_an_aborted_upload_takes_nothing_before_its_bytes_are_freed(gateway: Gateway) -> None:
    image = await gateway.create()
    await gateway.mutate("abortUpload", {"uploadId": image["upload"]["id"]})

    answer = await gateway.client.put(part_of(image), content=b"\1" * 2**20)

    assert error_of(answer) == (409, "UPLOAD_CLOSED")


async def test_an_address_does_not_say_who_asked_for_it(gateway: Gateway) -> None:
    image = await gateway.active(CONTENT)

    url = await download_of(gateway, image, MEMBER)

    (sealed,) = re.findall(r"[?&]for=([\w-]+)", url)
    assert MEMBER not in url
    assert MEMBER.encode() not in base64.urlsafe_b64decode(sealed + "==")
    assert sealed not in await download_of(gateway, image, MEMBER)


async def test_an_address_can_not_be_given_another_asker(gateway: Gateway) -> None:
    image = await gateway.active(CONTENT)
    mine, admins = await download_of(gateway, image, READER), await download_of(gateway, image, ADMIN)
    (sealed,) = re.findall(r"for=([\w-]+)", admins)

    for forged in (re.sub(r"for=[\w-]+", f"for={sealed}", mine), re.sub(r"for=[\w-]+", "for=", mine)):
        assert error_of(await gateway.client.get(forged)) == (403, "FORBIDDEN")


async def test_an_address_that_names_no_asker_is_refused(gateway: Gateway) -> None:
    image = await gateway.create()
    upload = await gateway.upload(image["upload"]["id"])
    anonymous = gateway.store.sign_download(upload.source.key, "disk", now() + timedelta(minutes=5))

    assert error_of(await gateway.client.get(anonymous.url)) == (403, "FORBIDDEN")


@pytest.mark.parametrize(("subject", "part_minutes"), [(ADMIN, 360), (OPERATOR, 15)])
async def test_downloads_expire_after_15_minutes_and_parts_as_rights_can_be_checked(
    gateway: Gateway, subject: str, part_minutes: int
) -> None:
    image = await gateway.active(CONTENT)
    waiting = await gateway.create()
    parts = (
        "query ($id: ID!) { image(by: {id: $id}) { upload { parts(first: 9) { nodes { request { expiresAt } } } } } }"
    )

    download = (await gateway.ask(DOWNLOAD, subject, id=image["id"]))["image"]["download"]
    part = (await gateway.ask(parts, subject, id=waiting["id"]))["image"]["upload"]["parts"]["nodes"][0]["request"]

    assert minutes_until(download["expiresAt"]) == 15
    # The token of the test is valid for an hour, so an operator's URLs are valid no longer.
    assert minutes_until(part["expiresAt"]) == part_minutes


async def test_the_urls_of_an_operator_expire_with_their_token(gateway: Gateway) -> None:
    image = await gateway.active(CONTENT)
    headers = {"Authorization": f"Bearer {gateway.token(OPERATOR, timedelta(minutes=2))}"}

    answer = await gateway.client.post(
        "/graphql", json={"query": DOWNLOAD, "variables": {"id": image["id"]}}, headers=headers
    )

    assert minutes_until(answer.json()["data"]["image"]["download"]["expiresAt"]) == 2


def minutes_until(instant: str) -> int:
    left = datetime.fromisoformat(instant) - datetime.now(UTC)
    return round(left.total_seconds() / 60)
