"""`images migrate` creates the store's keys with what they need and no more; a store with unsafe ones is refused."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from minio import Minio as Client
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException, S3Error

from app.adapters.reaching import store_trouble
from app.adapters.s3.bucket import Bucket
from app.adapters.s3.policies import upload_policy
from app.adapters.trouble import STORE, UPLOAD_KEY
from app.commands.doctor import findings
from app.commands.starting import migrate_all, prepare
from app.errors import SettingsError, StoreUnavailable
from app.s3_address import S3Address, S3Key
from app.settings import Settings, load_settings
from tests.servers.minio import GATEWAY_SECRET, KEY, SECRET, UPLOAD_SECRET, Minio

names = (f"keys-{number}" for number in count())


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests don't count."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"IMAGES_{name.upper()}", raising=False)


@pytest.fixture
def given(minio: Minio, tmp_path: Path) -> dict[str, Any]:
    """Settings with an administrator's key, of a bucket and two keys that are not there yet."""
    stores = {name.removeprefix("IMAGES_").lower(): value for name, value in minio.settings(next(names)).items()}
    return {"data": tmp_path / "data", **stores}


def address_in(settings: Settings) -> S3Address:
    assert settings.s3 is not None
    return settings.s3


def upload_key_in(settings: Settings) -> S3Key:
    assert settings.upload_key is not None
    return settings.upload_key


@pytest.fixture
def migrated(given: dict[str, Any]) -> Settings:
    settings = load_settings(**given)
    assert list(migrate_all(settings)) == []
    return settings


@pytest.fixture
def owner(migrated: Settings) -> Iterator[Bucket]:
    """The bucket of a gateway, for the administrator."""
    with closing(Bucket(address_in(migrated).with_key(S3Key(KEY, SECRET)))) as bucket:
        yield bucket


def client_of(settings: Settings, key: S3Key) -> Client:
    return Client(address_in(settings).host, key.name, key.secret, secure=False, region="us-east-1")


def admin_of(settings: Settings) -> MinioAdmin:
    provider = StaticProvider(KEY, SECRET)
    return MinioAdmin(endpoint=address_in(settings).host, credentials=provider, region="us-east-1", secure=False)


# ---------------------------------------------------------------- creating them


def test_after_the_migration_a_process_may_start_without_the_administrators_key(given: dict[str, Any]) -> None:
    for _ in range(2):
        migrate_all(load_settings(**given))

    del given["object_store_admin_key"]
    settings = load_settings(**given)

    prepare(settings)
    found = {finding.name: finding for finding in findings(settings)}
    assert found["object store"].ok


def test_changed_secrets_are_changed_in_the_store(given: dict[str, Any], migrated: Settings) -> None:
    for name, secret in (("object_store", GATEWAY_SECRET), ("object_store_upload_key", UPLOAD_SECRET)):
        given[name] = given[name].replace(secret, f"another-{secret}")
    changed = load_settings(**given)

    migrate_all(changed)

    prepare(changed)
    with pytest.raises(SettingsError, match="SignatureDoesNotMatch"):
        prepare(migrated)


def test_a_key_that_was_allowed_more_is_allowed_no_more_than_it_needs(migrated: Settings) -> None:
    admin = admin_of(migrated)
    admin.policy_set("readwrite", user=upload_key_in(migrated).name)
    assert store_trouble(migrated) is not None

    migrate_all(migrated)

    assert store_trouble(migrated) is None


def test_buckets_and_prefixes_have_policies_of_their_own(given: dict[str, Any], minio: Minio) -> None:
    bucket = next(names)
    kept = []
    for prefix in ("one", "other"):
        keys = {"object_store_upload_key": f"{bucket}-{prefix}-up:{UPLOAD_SECRET}"}
        url = minio.store_url(bucket, prefix, f"{bucket}-{prefix}:{GATEWAY_SECRET}")
        settings = load_settings(**{**given, "object_store": url, **keys})
        migrate_all(settings)
        kept.append(settings)

    assert [store_trouble(settings) for settings in kept] == [None, None]
    with closing(Bucket(replace(address_in(kept[0]), prefix="other/"))) as beside:
        with pytest.raises(StoreUnavailable, match="AccessDenied"):
            beside.put("uploads/one", b"bytes")


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ({"object_store_upload_key": None}, "IMAGES_OBJECT_STORE_UPLOAD_KEY: not set"),
        ({"object_store_upload_key": f"{KEY}:{SECRET}"}, "three different keys"),
        ({"object_store_admin_key": f"{KEY}:geheim-geheim"}, "IMAGES_OBJECT_STORE: "),
        ({"object_store_admin_key": "nobody:geheim-geheim"}, "IMAGES_OBJECT_STORE: "),
        ({"object_store_upload_key": "short:geheim"}, "MinIO refuses to create the keys: XMinioAdminInvalidSecretKey"),
    ],
)
def test_what_can_not_be_created_is_said_without_a_secret(
    given: dict[str, Any], missing: dict[str, Any], says: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        migrate_all(load_settings(**{**given, **missing}))

    assert says in str(refusal.value)
    assert "geheim" not in str(refusal.value)


# ---------------------------------------------------------------- what they may do

BEYOND: dict[str, Callable[[Client, str], object]] = {
    "make a bucket": lambda client, bucket: client.make_bucket(f"{bucket}-more"),
    "remove the bucket": lambda client, bucket: client.remove_bucket(bucket),
    "read its policy": lambda client, bucket: client.get_bucket_policy(bucket),
    "open it to everybody": lambda client, bucket: client.set_bucket_policy(bucket, "{}"),
    "write elsewhere in it": lambda client, bucket: client.put_object(bucket, "elsewhere", io.BytesIO(b"1"), 1),
    "read elsewhere in it": lambda client, bucket: client.stat_object(bucket, "elsewhere-there"),
    "read another bucket": lambda client, _: client.stat_object("keys-of-others", "one"),
    "list another bucket": lambda client, _: next(client.list_objects("keys-of-others")),
    "write into another bucket": lambda client, _: client.put_object("keys-of-others", "two", io.BytesIO(b"1"), 1),
}
ONLY_UPLOADS: dict[str, Callable[[Client, str], object]] = {
    "list": lambda client, bucket: next(client.list_objects(bucket)),
    "read an upload": lambda client, bucket: client.get_object(bucket, "uploads/there"),
    "read a blob": lambda client, bucket: client.get_object(bucket, "blobs/there"),
    "look at an upload": lambda client, bucket: client.stat_object(bucket, "uploads/there"),
    "write a blob": lambda client, bucket: client.put_object(bucket, "blobs/there", io.BytesIO(b"1"), 1),
    "delete an upload": lambda client, bucket: client.remove_object(bucket, "uploads/there"),
    "list the parts of an upload": lambda client, bucket: client._list_parts(bucket, "uploads/there", "x"),
    "abort an upload": lambda client, bucket: client._abort_multipart_upload(bucket, "uploads/there", "x"),
    "list open uploads": lambda client, bucket: client._list_multipart_uploads(bucket),
}


@pytest.fixture
def filled(owner: Bucket, minio: Minio) -> Bucket:
    for key in ("elsewhere-there", "uploads/there", "blobs/there"):
        owner.put(key, b"bytes")
    with closing(Bucket(S3Address.parse(minio.store_url("keys-of-others")))) as beside:
        beside.make()
        beside.put("one", b"bytes")
    return owner


def test_the_gateways_key_may_do_nothing_outside_its_folders(migrated: Settings, filled: Bucket) -> None:
    address = address_in(migrated)
    _refused(client_of(migrated, S3Key(address.key, address.secret)), address.bucket, BEYOND)


def test_the_key_of_part_urls_may_not_even_read_an_upload(migrated: Settings, filled: Bucket) -> None:
    _refused(client_of(migrated, upload_key_in(migrated)), address_in(migrated).bucket, BEYOND | ONLY_UPLOADS)
    assert filled.read("uploads/there", 0, 5) == filled.read("blobs/there", 0, 5) == b"bytes"


def _refused(client: Client, bucket: str, attempts: dict[str, Callable[[Client, str], object]]) -> None:
    outcomes: dict[str, str | None] = {}
    for name, attempt in attempts.items():
        try:
            outcomes[name] = repr(attempt(client, bucket))
        except S3Error as error:
            outcomes[name] = error.code
    assert outcomes == dict.fromkeys(attempts, "AccessDenied")


def test_neither_key_administers_minio(migrated: Settings) -> None:
    address = address_in(migrated)
    for key in (S3Key(address.key, address.secret), upload_key_in(migrated)):
        provider = StaticProvider(key.name, key.secret)
        admin = MinioAdmin(endpoint=address.host, credentials=provider, region="us-east-1", secure=False)
        with pytest.raises(MinioAdminException, match="AccessDenied"):
            admin.user_list()


# ---------------------------------------------------------------- refusing what is unsafe


def assert_nothing_left(bucket: Bucket) -> None:
    assert (list(bucket.keys()), bucket.open_keys()) == ([], [])


def test_a_safe_store_is_used_and_nothing_of_the_trial_stays(migrated: Settings, owner: Bucket) -> None:
    assert store_trouble(migrated) is None
    assert_nothing_left(owner)


def test_one_key_for_everything_is_refused_with_a_way_out(minio: Minio, tmp_path: Path) -> None:
    url = minio.store_url(next(names), "below")
    with closing(Bucket(S3Address.parse(url))) as bucket:
        bucket.make()
        settings = load_settings(data=tmp_path, object_store=url)

        for start in (prepare, migrate_all):
            with pytest.raises(SettingsError) as refusal:
                start(settings)

            assert str(refusal.value).startswith(
                "IMAGES_OBJECT_STORE_UPLOAD_KEY: part URLs can copy objects of other users"
            )
            assert f"s3:PutObject on arn:aws:s3:::{bucket.address.bucket}/below/uploads/*" in str(refusal.value)
            assert "IMAGES_OBJECT_STORE_ADMIN_KEY" in str(refusal.value)
        finding = {finding.name: finding for finding in findings(settings)}["object store"]
        assert (finding.ok, finding.needed) == (False, True)
        assert "Set it to the key:secret of a key" in str(finding.remedy)
        assert_nothing_left(bucket)


@pytest.mark.parametrize("readable", ["uploads/*", "blobs/*", "*"])
def test_a_key_of_part_urls_that_may_read_anything_is_refused(migrated: Settings, owner: Bucket, readable: str) -> None:
    policy = upload_policy(address_in(migrated))
    reading = {
        "Effect": "Allow",
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{owner.address.bucket}/{readable}"],
    }
    _give(migrated, {**policy, "Statement": [*policy["Statement"], reading]})

    trouble = store_trouble(migrated)

    assert trouble is not None
    assert (trouble.setting, trouble.wrong) == (UPLOAD_KEY, True)
    assert "part URLs can copy objects of other users" in trouble.reason
    assert_nothing_left(owner)


def test_a_key_that_can_send_no_part_is_found_before_a_client_does(migrated: Settings, owner: Bucket) -> None:
    policy = upload_policy(replace(address_in(migrated), prefix="elsewhere/"))
    _give(migrated, policy)

    trouble = store_trouble(migrated)

    assert trouble is not None
    assert (trouble.setting, trouble.wrong) == (UPLOAD_KEY, True)
    assert trouble.reason == "part URLs do not work: the object store refuses the request: AccessDenied"
    assert_nothing_left(owner)


def test_a_key_of_part_urls_that_the_store_does_not_know_is_named(given: dict[str, Any], migrated: Settings) -> None:
    settings = load_settings(**{**given, "object_store_upload_key": "nobody:geheim-geheim"})

    trouble = store_trouble(settings)

    assert trouble is not None
    assert (trouble.setting, trouble.wrong) == (UPLOAD_KEY, True)
    assert "InvalidAccessKeyId" in trouble.reason
    assert "geheim" not in str(trouble)


@pytest.mark.parametrize("fault", ["ignores signatures", "drops x-amz-copy-source"])
def test_the_store_is_judged_by_what_it_does(minio: Minio, tmp_path: Path, fault: str) -> None:
    """Behind something that takes every unsigned trailer, and behind a proxy that makes one key as safe as two."""
    bucket = next(names)
    with closing(Bucket(S3Address.parse(minio.store_url(bucket)))) as direct:
        direct.make()
        with store_behind(minio, taking_trailers=fault == "ignores signatures") as port:
            url = f"s3+http://{KEY}:{SECRET}@127.0.0.1:{port}/{bucket}"
            trouble = store_trouble(load_settings(data=tmp_path, object_store=url))

        if fault == "ignores signatures":
            assert trouble is not None
            assert (trouble.setting, trouble.wrong) == (STORE, True)
            assert "the store accepts parts with a wrong signature" in str(trouble)
            assert ".ci/minio" in str(trouble.remedy)
        else:
            assert trouble is None
        assert_nothing_left(direct)


@contextmanager
def store_behind(minio: Minio, *, taking_trailers: bool) -> Iterator[int]:
    """The port of a proxy that drops x-amz-copy-source, and may answer unsigned trailers by itself."""

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            del self.headers["X-Amz-Copy-Source"]
            unsigned = self.headers.get("X-Amz-Content-Sha256", "").startswith("STREAMING-UNSIGNED")
            if unsigned and taking_trailers:
                return self._answer(200, {"ETag": '"0"'}, b"")
            with closing(HTTPConnection("127.0.0.1", minio.port, timeout=30)) as connection:
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                self._answer(answer.status, dict(answer.headers), answer.read())

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding"):
                    self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", headers.get("Content-Length", str(len(body))))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            serving.join()


def _give(settings: Settings, policy: Any) -> None:
    """Give the key of part URLs another policy."""
    name = f"of-a-test-{address_in(settings).bucket}"
    admin = admin_of(settings)
    admin.policy_add(name, policy={**policy})
    admin.policy_set(name, user=upload_key_in(settings).name)
