"""createImage: what is taken, what is refused and why, and that a refusal leaves nothing behind."""

import asyncio
from typing import Any

import pytest
from sqlmodel import select

from app.models import IdempotencyKey, Image, Project
from app.sizes import GIB, MIB, TIB
from tests.app.conftest import StartGateway
from tests.support.gateway import CREATE, MEMBER, Gateway

pytestmark = pytest.mark.anyio

DETAILS = """query ($id: ID!) { image(by: {id: $id}) {
    name type status visibility revision architecture virtualSize minBootDiskGib storedSize sha256 protected warnings
    os { family version displayName } labels { key value } failure { code } download { url }
    source { ... on UploadSource { fileName declaredFormat detectedFormat size sha256 } }
    progress { phase percent bytesDone bytesTotal etaSeconds }
    upload { state size partSize partCount receivedBytes
             parts(first: 3, status: MISSING) { totalCount nodes {
               number offset size status request { method url } } } }
    project { id name } } }"""


async def test_a_new_image_waits_for_its_bytes_and_says_where_they_go(gateway: Gateway) -> None:
    image = await gateway.create(
        MEMBER,
        name="  Ubuntu 24.04  ",
        os={"family": " Ubuntu ", "version": "24.04"},
        labels=[{"key": "team", "value": "web"}, {"key": "env", "value": ""}],
        architecture="AARCH64",
        upload={"fileName": "noble.QCOW2", "size": 40 * MIB, "sha256": "AB" * 32},
    )
    found = (await gateway.ask(DETAILS, id=image["id"]))["image"]
    upload, source, progress = found.pop("upload"), found.pop("source"), found.pop("progress")
    assert found == {
        "name": "Ubuntu 24.04", "type": "CUSTOM", "status": "QUEUED", "visibility": "PROJECT", "revision": 1,
        "architecture": "AARCH64", "virtualSize": None, "minBootDiskGib": None, "storedSize": None, "sha256": None,
        "protected": False, "warnings": [], "failure": None, "download": None,
        "os": {"family": "ubuntu", "version": "24.04", "displayName": "Ubuntu 24.04"},
        "labels": [{"key": "env", "value": ""}, {"key": "team", "value": "web"}],
        "project": {"id": gateway.alpha, "name": "alpha"},
    }  # fmt: skip
    assert source == {
        "fileName": "noble.QCOW2", "declaredFormat": "QCOW2", "detectedFormat": None, "size": 40 * MIB,
        "sha256": "ab" * 32,
    }  # fmt: skip
    assert progress == {
        "phase": "AWAITING_UPLOAD", "percent": 0.0, "bytesDone": 0, "bytesTotal": 40 * MIB, "etaSeconds": None,
    }  # fmt: skip
    parts = upload.pop("parts")
    assert upload == {
        "state": "OPEN", "size": 40 * MIB, "partSize": 16 * MIB, "partCount": 3, "receivedBytes": 0,
    }  # fmt: skip
    assert parts["totalCount"] == 3
    assert [(part["number"], part["offset"], part["size"], part["status"]) for part in parts["nodes"]] == [
        (1, 0, 16 * MIB, "MISSING"),
        (2, 16 * MIB, 16 * MIB, "MISSING"),
        (3, 32 * MIB, 8 * MIB, "MISSING"),
    ]
    assert {part["request"]["method"] for part in parts["nodes"]} == {"PUT"}


async def test_the_answer_says_where_in_the_feed_the_image_appears(gateway: Gateway) -> None:
    before = (await gateway.ask("{ eventCursor }"))["eventCursor"]
    payload = await gateway.mutate("createImage", gateway.creation())
    document = """query ($project: ID!, $after: EventCursor) {
        imageEvents(projectId: $project, after: $after, first: 5) {
            nodes { __typename cursor imageId image { status } } } }"""
    (event,) = (await gateway.ask(document, project=gateway.alpha, after=before))["imageEvents"]["nodes"]
    assert event == {
        "__typename": "ImageCreated",
        "cursor": payload["cursor"],
        "imageId": payload["image"]["id"],
        "image": {"status": "QUEUED"},
    }


async def test_a_payload_reads_on_in_the_same_request(gateway: Gateway) -> None:
    document = """mutation ($input: CreateImageInput!, $project: ID!) { createImage(input: $input) {
        cursor query { eventCursor viewer { subject } project(id: $project) { name } } } }"""
    payload = (await gateway.ask(document, input=gateway.creation(), project=gateway.alpha))["createImage"]
    # The cursor of the newest position differs from that of the event there, which may be another tenant's.
    later = """query ($project: ID!, $after: EventCursor) {
        imageEvents(projectId: $project, after: $after, first: 5) { nodes { cursor } } }"""
    for cursor in (payload["cursor"], payload["query"]["eventCursor"]):
        found = await gateway.ask(later, project=gateway.alpha, after=cursor)
        assert found["imageEvents"]["nodes"] == []
    assert payload["query"]["viewer"] == {"subject": "ada"}
    assert payload["query"]["project"] == {"name": "alpha"}


@pytest.mark.parametrize(
    ("file_name", "declared", "expected"),
    [
        ("disk.qcow2", None, "QCOW2"),
        ("disk.raw", None, "RAW"),
        ("disk.VMDK", None, "VMDK"),
        ("disk.vhd", None, "VHD"),
        ("disk.vhdx", None, "VHDX"),
        ("disk.img", "RAW", "RAW"),
        ("disk.qcow2", "RAW", "RAW"),
        ("qcow2", "VHD", "VHD"),
    ],
)
async def test_the_format_is_what_is_said_or_what_the_name_ends_in(
    gateway: Gateway, file_name: str, declared: str | None, expected: str
) -> None:
    image = await gateway.create(upload={"fileName": file_name, "format": declared})
    assert (await gateway.image(image["id"])).source_declared_format == expected


@pytest.mark.parametrize(
    "file_name",
    [
        "../../../../etc/passwd",
        "/etc/cron.d/x",
        "a\0b",
        "x" * 10_000,
        "..",
        "\u202egpj.exe",
        "C:\\con\\nul",
        "\ud800",
        "objects/blobs/x\r\nSet-Cookie: a=b",
        "; rm -rf ~ #$(reboot)`reboot`",
    ],
    ids=ascii,
)
async def test_a_hostile_file_name_is_kept_as_data_and_becomes_no_path(gateway: Gateway, file_name: str) -> None:
    before = set(gateway.files())
    image = await gateway.create(upload={"fileName": file_name, "format": "RAW"})
    found = (await gateway.ask(DETAILS, id=image["id"]))["image"]
    assert found["source"]["fileName"] == file_name
    key = await gateway.source_key(image)
    folder = f"open/{key.replace('/', '+')}"
    assert set(gateway.files()) - before == {f"{folder}/data", f"{folder}/marks"}
    await gateway.send(image, b"\1" * MIB)
    await gateway.mutate("completeUpload", {"uploadId": image["upload"]["id"]})
    assert f"objects/{key}" in gateway.files()
    assert sorted(path.name for path in gateway.settings.data.iterdir() if path.is_dir()) == ["store"]


@pytest.mark.parametrize("name", ["\u202eevil", "a/../b", "x" * 255, "💾" * 255, "<script>", "%00", "-rf", " a  b "])
async def test_a_strange_name_is_kept_as_it_is_but_for_space_around_it(gateway: Gateway, name: str) -> None:
    assert (await gateway.create(name=name))["name"] == name.strip()


async def test_a_name_is_put_into_one_form_of_unicode(gateway: Gateway) -> None:
    assert (await gateway.create(name="A\u0308"))["name"] == "Ä"


LABEL = {"key": "k", "value": "v"}
REFUSALS: dict[str, tuple[dict[str, Any], str, list[str], str | None]] = {
    "no name": ({"name": " \t "}, "INVALID", ["name"], None),
    "a long name": ({"name": "x" * 256}, "INVALID", ["name"], None),
    "a NUL in the name": ({"name": "a\0b"}, "INVALID", ["name"], "Remove them."),
    "a line break in the name": ({"name": "a\nb"}, "INVALID", ["name"], "Remove them."),
    "half of a character in the name": ({"name": "a\ud800"}, "INVALID", ["name"], "Remove them."),
    "no file name": (
        {"upload": {"fileName": "  ", "format": "RAW"}}, "INVALID", ["source", "upload", "fileName"], None,
    ),
    "a very long file name": (
        {"upload": {"fileName": "x" * 16_385, "format": "RAW"}}, "INVALID", ["source", "upload", "fileName"], None,
    ),
    "no format": (
        {"upload": {"fileName": "disk.img"}}, "UNSUPPORTED_FORMAT", ["source", "upload", "format"],
        "Set `format`. Run `qemu-img info FILE` to find it; unpack archives first.",
    ),
    "an archive": (
        {"upload": {"fileName": "disk.qcow2.gz"}}, "UNSUPPORTED_FORMAT", ["source", "upload", "format"],
        "Set `format`. Run `qemu-img info FILE` to find it; unpack archives first.",
    ),
    "no bytes": ({"upload": {"size": 0}}, "INVALID", ["source", "upload", "size"], "Upload a disk image."),
    "less than none": ({"upload": {"size": -1}}, "INVALID", ["source", "upload", "size"], "Upload a disk image."),
    "the least number": (
        {"upload": {"size": -(2**63)}}, "INVALID", ["source", "upload", "size"], "Upload a disk image.",
    ),
    "more than 16 TiB": (
        {"upload": {"size": 16 * TIB + 1}}, "TOO_LARGE", ["source", "upload", "size"],
        "Make the file smaller, for example with `qemu-img convert -O qcow2`, which leaves out holes.",
    ),
    "the largest number": (
        {"upload": {"size": 2**63 - 1}}, "TOO_LARGE", ["source", "upload", "size"],
        "Make the file smaller, for example with `qemu-img convert -O qcow2`, which leaves out holes.",
    ),
    "more than 50 GiB in one part": (
        {"upload": {"size": 50 * GIB + 1, "multipart": False}}, "TOO_LARGE", ["source", "upload", "size"],
        "Omit `multipart` or set it to true to send the file in several parts.",
    ),
    "more than the quota": (
        {"upload": {"size": 500 * GIB + 1}}, "QUOTA_EXCEEDED", ["source", "upload", "size"],
        "Delete images that are no longer needed or have the limit raised.",
    ),
    "16 TiB, within every limit but the quota": (
        {"upload": {"size": 16 * TIB}}, "QUOTA_EXCEEDED", ["source", "upload", "size"],
        "Delete images that are no longer needed or have the limit raised.",
    ),
    "a SHA-256 that is none": (
        {"upload": {"sha256": "ab"}}, "INVALID", ["source", "upload", "sha256"], "Run `sha256sum FILE` to compute it.",
    ),
    "a SHA-256 in other digits": (
        {"upload": {"sha256": "\N{ARABIC-INDIC DIGIT ZERO}" * 64}}, "INVALID", ["source", "upload", "sha256"],
        "Run `sha256sum FILE` to compute it.",
    ),
    "too many labels": (
        {"labels": [{"key": f"k{at}", "value": ""} for at in range(65)]}, "INVALID", ["labels"], None,
    ),
    "a label without a key": ({"labels": [LABEL, {"key": "", "value": "v"}]}, "INVALID", ["labels", "1"], None),
    "a long key": ({"labels": [{"key": "k" * 64, "value": ""}]}, "INVALID", ["labels", "0"], None),
    "a long value": ({"labels": [{"key": "k", "value": "v" * 256}]}, "INVALID", ["labels", "0"], None),
    "a NUL in a label": ({"labels": [{"key": "k", "value": "\0"}]}, "INVALID", ["labels", "0"], "Remove them."),
    "a key twice": ({"labels": [LABEL, LABEL]}, "INVALID", ["labels"], None),
    "an empty family": ({"os": {"family": " "}}, "INVALID", ["os", "family"], None),
    "a long version": ({"os": {"family": "x", "version": "1" * 65}}, "INVALID", ["os", "version"], None),
    "half of a character in the family": ({"os": {"family": "\udfff"}}, "INVALID", ["os", "family"], "Remove them."),
    "an empty idempotency key": ({"idempotencyKey": ""}, "INVALID", ["idempotencyKey"], None),
    "a long idempotency key": ({"idempotencyKey": "x" * 256}, "INVALID", ["idempotencyKey"], None),
    "a NUL in the idempotency key": ({"idempotencyKey": "\0"}, "INVALID", ["idempotencyKey"], "Remove them."),
    "half of a character in the idempotency key": (
        {"idempotencyKey": "\ud800"}, "INVALID", ["idempotencyKey"], "Remove them.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "code", "field", "hint"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_what_can_not_be_created_is_refused_with_the_place_and_the_remedy(
    gateway: Gateway, given: dict[str, Any], code: str, field: list[str], hint: str | None
) -> None:
    mistake = await gateway.mistake("createImage", gateway.creation(**given))
    assert (mistake["code"], mistake["field"], mistake["hint"]) == (code, field, hint)
    assert mistake["message"].endswith(".")


@pytest.mark.parametrize(
    "given",
    [
        {"source": {}},
        {"source": {"upload": None}},
        {"upload": {"size": 2**63}},
        {"upload": {"size": 1.5}},
        {"upload": {"size": "7"}},
        {"upload": {"size": True}},
        {"upload": {"format": "ISO"}},
        {"name": None},
        {"architecture": "RISCV"},
        {"labels": [None]},
        {"bootable": True},
    ],
    ids=str,
)
async def test_input_of_another_form_is_refused_before_anything_runs(gateway: Gateway, given: dict[str, Any]) -> None:
    before = await gateway.everything()
    body = await gateway.answer(CREATE, input=gateway.creation(**given))
    assert {error["extensions"]["code"] for error in body["errors"]} == {"BAD_USER_INPUT"}
    assert "data" not in body
    assert await gateway.everything() == before


async def test_one_part_may_have_fifty_gib_and_more_is_taken_in_parts(gateway: Gateway) -> None:
    one = await gateway.create(upload={"size": 50 * GIB, "multipart": False})
    assert (one["upload"]["partCount"], one["upload"]["partSize"]) == (1, 50 * GIB)
    many = await gateway.create(upload={"size": 50 * GIB + 1, "multipart": True})
    assert (many["upload"]["partCount"], many["upload"]["partSize"]) == (3201, 16 * MIB)
    for image in (one, many):
        await gateway.mutate("deleteImage", {"imageId": image["id"]})


async def test_parts_grow_so_that_there_are_never_more_than_ten_thousand(gateway: Gateway) -> None:
    image = await gateway.create(upload={"size": 400 * GIB})
    assert image["upload"]["partSize"] == 41 * MIB
    assert image["upload"]["partCount"] == -(-400 * GIB // (41 * MIB)) <= 10_000
    await gateway.mutate("deleteImage", {"imageId": image["id"]})


# ---------------------------------------------------------------- idempotency


async def test_the_same_key_and_input_give_the_same_image(gateway: Gateway) -> None:
    first = await gateway.create(idempotencyKey="k1")
    before = await gateway.everything()
    again = await gateway.create(idempotencyKey="k1")
    assert again["id"] == first["id"]
    assert again["upload"]["id"] == first["upload"]["id"]
    assert await gateway.everything() == before


@pytest.mark.parametrize("other", [{"name": "other"}, {"upload": {"size": 2 * MIB}}, {"labels": [LABEL]}], ids=str)
async def test_the_same_key_with_another_input_is_a_conflict(gateway: Gateway, other: dict[str, Any]) -> None:
    await gateway.create(idempotencyKey=f"k2{other}")
    mistake = await gateway.mistake("createImage", gateway.creation(idempotencyKey=f"k2{other}", **other))
    assert (mistake["code"], mistake["field"]) == ("CONFLICT", ["idempotencyKey"])
    assert mistake["hint"] == "Use a new key for each new image."


async def test_a_key_counts_in_its_own_project(gateway: Gateway) -> None:
    first = await gateway.create(idempotencyKey="k3")
    second = await gateway.create(idempotencyKey="k3", projectId=await gateway.project())
    assert first["id"] != second["id"]


async def test_a_key_of_an_image_that_was_deleted_is_used_up(gateway: Gateway) -> None:
    image = await gateway.create(idempotencyKey="k4")
    await gateway.mutate("deleteImage", {"imageId": image["id"]})
    mistake = await gateway.mistake("createImage", gateway.creation(idempotencyKey="k4"))
    assert (mistake["code"], mistake["field"], mistake["hint"]) == ("NOT_FOUND", ["idempotencyKey"], "Use a new key.")


async def test_of_many_equal_requests_at_once_one_makes_the_image_and_all_get_it(start_gateway: StartGateway) -> None:
    # There is room for one image only: the other requests must not be refused because of the image that they return.
    async with start_gateway(custom_images_limit=1) as gateway:
        wanted = gateway.creation(idempotencyKey="k5")
        payloads = await asyncio.gather(*(gateway.mutate("createImage", wanted) for _ in range(8)))
        assert [payload["userErrors"] for payload in payloads] == [[]] * 8
        assert len({payload["image"]["id"] for payload in payloads}) == 1
        async with gateway.database.read() as session:
            assert len((await session.execute(select(Image))).all()) == 1
            assert len((await session.execute(select(IdempotencyKey))).all()) == 1
        assert len(gateway.files()) == 2


# ---------------------------------------------------------------- quotas

QUOTA = """query ($id: ID!) { project(id: $id) { quota {
    customImages { limit used } imageStorage { limit used reserved } } } }"""


async def test_of_thirty_creations_at_once_as_many_succeed_as_there_is_room_for(gateway: Gateway) -> None:
    project = await gateway.project()
    await gateway.change(Project, project, custom_images_limit=7)
    wanted = gateway.creation(projectId=project)
    payloads = await asyncio.gather(*(gateway.mutate("createImage", wanted) for _ in range(30)))
    refused = [payload["userErrors"][0] for payload in payloads if payload["userErrors"]]
    assert len(refused) == 23
    assert refused[0] == {
        "code": "QUOTA_EXCEEDED",
        "message": "The project has 7 of 7 custom images, and 1 more was requested.",
        "field": ["projectId"],
        "hint": "Delete images that are no longer needed or have the limit raised.",
    }
    quota = (await gateway.ask(QUOTA, id=project))["project"]["quota"]
    assert quota["customImages"] == {"limit": 7, "used": 7}
    made = {payload["image"]["id"] for payload in payloads if payload["image"]}
    assert len(made) == 7
    async with gateway.database.read() as session:
        rows = (await session.execute(select(Image.id).where(Image.project_id == project))).scalars()
        assert set(rows) == made


async def test_promised_bytes_count_until_the_real_size_is_known(gateway: Gateway) -> None:
    project = await gateway.project()
    await gateway.change(Project, project, image_storage_limit=3 * MIB)
    image = await gateway.active(projectId=project, content=b"\1" * MIB)
    waiting = await gateway.create(projectId=project, upload={"size": 2 * MIB})
    quota = (await gateway.ask(QUOTA, id=project))["project"]["quota"]
    assert quota["imageStorage"] == {"limit": 3 * MIB, "used": MIB, "reserved": 2 * MIB}
    mistake = await gateway.mistake("createImage", gateway.creation(projectId=project, upload={"size": 1}))
    assert mistake["code"] == "QUOTA_EXCEEDED"
    assert mistake["message"] == "Not enough image storage: 1 byte requested; limit 3 MiB, used 1 MiB, reserved 2 MiB."
    for gone in (image, waiting):
        await gateway.mutate("deleteImage", {"imageId": gone["id"]})
    quota = (await gateway.ask(QUOTA, id=project))["project"]["quota"]
    assert quota["imageStorage"] == {"limit": 3 * MIB, "used": 0, "reserved": 0}
    assert quota["customImages"]["used"] == 0


async def test_an_aborted_upload_releases_its_bytes(gateway: Gateway) -> None:
    project = await gateway.project()
    image = await gateway.create(projectId=project)
    await gateway.mutate("abortUpload", {"uploadId": image["upload"]["id"]})
    quota = (await gateway.ask(QUOTA, id=project))["project"]["quota"]
    assert quota["imageStorage"] == {"limit": 500 * GIB, "used": 0, "reserved": 0}


async def test_images_that_count_against_no_quota_leave_room(gateway: Gateway) -> None:
    project = await gateway.project()
    await gateway.change(Project, project, custom_images_limit=1)
    await gateway.stock(project, {"type": "STOCK", "stored_size": 600 * GIB})
    assert (await gateway.create(projectId=project))["status"] == "QUEUED"
