"""Keys of objects are random; those of older versions go on working."""

import os
import re
from datetime import timedelta
from itertools import pairwise

import pytest

from app.catalog import conversions
from app.lifecycle import ImageStatus
from app.models import Blob, Source, Upload, new_id, now
from app.object_keys import is_ours, new_blob_key, new_upload_key
from tests.app.conftest import StartGateway
from tests.support.gateway import Gateway, outcome, until
from tests.support.object_store_contract import listed
from workers.jobs.schedule import Schedule

pytestmark = pytest.mark.anyio

RESULT_BEFORE_0004 = "blobs/{}.qcow2"


async def made_before_0006(gateway: Gateway) -> Upload:
    """The upload of an image as earlier versions wrote it, complete and not yet converted."""
    image = await gateway.uploaded()
    await gateway.change(Source, (await gateway.source(image)).id, result_key=None)
    return await gateway.upload(image["upload"]["id"])


async def test_no_key_shares_anything_with_an_id_or_with_another_key(gateway: Gateway) -> None:
    images = [await gateway.active() for _ in range(3)]

    uploads = [await gateway.upload(image["upload"]["id"]) for image in images]
    keys = [key for upload in uploads for key in (upload.source.key, upload.source.key_of_result)]
    assert [(await gateway.blob(image)).key for image in images] == keys[1::2]
    names = [re.sub(r"^(uploads|blobs)/|\.qcow2$", "", key) for key in keys]
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)
    ids = [
        id_[4:] for upload in uploads for id_ in (upload.id, upload.source_id, upload.source.result_id, upload.image_id)
    ]
    assert not any(id_[:8] in key for id_ in ids for key in keys)
    # Ids of one moment begin alike, keys don't.
    assert all(one[:8] != other[:8] for one, other in pairwise(sorted(names)))


async def test_an_upload_from_before_becomes_the_blob_that_its_id_names(gateway: Gateway) -> None:
    upload = await made_before_0006(gateway)
    expected = RESULT_BEFORE_0004.format(upload.source.result_id)

    both = {upload.source.key, expected}
    assert await conversions.named_keys(gateway.catalogue, both) == both
    claim, assignment = await gateway.begun(upload.image_id)
    assert assignment.result_key == expected
    await conversions.succeed(gateway.catalogue, claim, assignment, outcome())

    async with gateway.database.read() as session:
        blob = await session.get_one(Blob, upload.source.result_id)
    assert blob.key == expected


async def test_an_upload_from_before_is_converted_and_erased_with_its_key(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        upload = await made_before_0006(gateway)

        async with gateway.working():

            async def is_active() -> bool:
                return (await gateway.image(upload.image_id)).status == ImageStatus.ACTIVE

            await until(is_active)
            await until(gateway.idle)
            assert f"objects/{RESULT_BEFORE_0004.format(upload.source.result_id)}" in gateway.files()
            await gateway.mutate("deleteImage", {"imageId": upload.image_id})
            await until(gateway.idle)

        assert gateway.files() == []


def put_long_ago(gateway: Gateway, key: str) -> None:
    path = gateway.store.path(key)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"bytes")
    long_ago = (now() - timedelta(hours=1)).timestamp()
    os.utime(path, (long_ago, long_ago))


async def test_what_a_job_is_about_to_erase_is_left_to_it(start_gateway: StartGateway) -> None:
    async with start_gateway(orphan_seconds=1) as gateway:
        image = await gateway.active()
        key = (await gateway.blob(image)).key
        put_long_ago(gateway, key)
        await gateway.mutate("deleteImage", {"imageId": image["id"]})
        schedule = Schedule(gateway.catalogue, gateway.queue)

        await schedule.remove_orphans()

        assert key in {key for key, _ in await listed(gateway.store)}
        async with gateway.working():
            await until(gateway.idle)
        assert gateway.files() == []


async def test_orphans_go_whichever_version_named_them_and_others_stay(start_gateway: StartGateway) -> None:
    async with start_gateway(orphan_seconds=1) as gateway:
        orphans = [new_upload_key(), new_blob_key(), f"uploads/{new_id('upl')}", f"blobs/{new_id('blb')}.qcow2"]
        strange = ["uploads/of-another", "blobs/0123.qcow2"]
        for key in [*orphans, *strange]:
            put_long_ago(gateway, key)
        kept = await gateway.active()
        schedule = Schedule(gateway.catalogue, gateway.queue)

        await schedule.remove_orphans()

        left = {key for key, _ in await listed(gateway.store)}
        assert left >= {*strange, (await gateway.blob(kept)).key}
        assert not left & set(orphans)


@pytest.mark.parametrize("key", ["uploads/x", "blobs/x.qcow2", f"uploads/{'g' * 32}", f"uploads/{'0' * 33}", "photo"])
async def test_what_others_keep_in_a_shared_bucket_is_not_taken_for_ours(key: str) -> None:
    assert not is_ours(key)
