"""A store that is away, busy, full, or cuts connections: what passes is waited for, and what does not has its error."""

import contextlib
import datetime
import ipaddress
import os
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.adapters.s3.bucket import Bucket
from app.adapters.s3.errors import StoreBusy
from app.adapters.s3.store import S3Store
from app.errors import ObjectMissing, StoreFull, StoreUnavailable, UploadClosed
from app.ports import UploadHandle
from app.s3_address import S3Address
from tests.servers.minio import KEY, SECRET, Minio
from tests.servers.process import answers
from tests.servers.relay import Cut, relay
from tests.support.object_store_contract import StorePlace, soon

PART = 5 * 1024 * 1024
MIB = 1024 * 1024
names = (f"failing-{number}" for number in count())


@pytest.fixture
def doomed(minio: Minio) -> Iterator[Minio]:
    """The MinIO of all tests, for one that kills it."""
    yield minio
    minio.kill()
    minio.start()


@pytest.fixture
def built(minio: Minio) -> Path:
    """The program, for tests that start a MinIO of their own."""
    return minio.program


@contextlib.contextmanager
def bucket_at(url: str, *, patience: float = 30) -> Iterator[Bucket]:
    with contextlib.closing(Bucket(S3Address.parse(url), patience=patience)) as bucket:
        bucket.make()
        yield bucket


@contextlib.contextmanager
def relayed(minio: Minio, cut: Cut) -> Iterator[Bucket]:
    """A bucket behind a relay that cuts answers."""
    name = next(names)
    with bucket_at(minio.store_url(name)), relay(minio.port, cut) as port:
        with contextlib.closing(Bucket(S3Address.parse(f"s3+http://{KEY}:{SECRET}@127.0.0.1:{port}/{name}"))) as bucket:
            yield bucket


# ---------------------------------------------------------------- away


def test_a_store_that_is_killed_is_an_error_and_goes_on_where_it_was(doomed: Minio) -> None:
    with bucket_at(doomed.store_url(next(names)), patience=0.3) as bucket:
        reference = bucket.open_multipart("blobs/one")
        first = os.urandom(PART)
        parts = [(1, bucket.put_part("blobs/one", reference, 1, lambda: [first], PART))]

        def dying() -> Iterator[bytes]:
            yield bytes(1000)
            doomed.kill()
            yield bytes(1000)

        with pytest.raises(StoreUnavailable):
            bucket.put_part("blobs/one", reference, 2, dying, 2000)
        with pytest.raises(StoreUnavailable):
            bucket.size("blobs/one")
        doomed.start()
        assert [(part.number, part.etag) for part in bucket.parts("blobs/one", reference)] == parts
        parts.append((2, bucket.put_part("blobs/one", reference, 2, lambda: [b"end"], 3)))
        bucket.complete("blobs/one", reference, parts)
        assert bucket.read("blobs/one", PART - 5, 8) == first[-5:] + b"end"


def test_a_store_that_is_started_anew_is_waited_for(doomed: Minio) -> None:
    with bucket_at(doomed.store_url(next(names))) as bucket:
        reference = bucket.open_multipart("blobs/one")
        attempts = 0

        def restarted() -> Iterator[bytes]:
            nonlocal attempts
            attempts += 1
            yield b"by"
            if attempts == 1:
                doomed.kill()
                doomed.start()
            yield b"tes"

        etag = bucket.put_part("blobs/one", reference, 1, restarted, 5)
        assert attempts == 2
        bucket.complete("blobs/one", reference, [(1, etag)])
        assert bucket.read("blobs/one", 0, 5) == b"bytes"


def test_a_download_goes_on_when_the_store_was_started_anew(doomed: Minio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.adapters.s3.store._BLOCK", 2 * MIB)
    store = S3Store(S3Address.parse(doomed.store_url(next(names))))
    with contextlib.closing(store), contextlib.closing(StorePlace(store, "", PART)) as place:
        place.do(store.prepare())
        content = os.urandom(PART)
        place.put_object(content)

        async def read() -> bytes:
            came = b""
            async for chunk in store.read("uploads/one"):
                came += chunk
                if len(came) == 2 * MIB:
                    doomed.kill()
                    doomed.start()
            return came

        assert place.do(read()) == content


def test_the_check_says_at_once_that_nobody_answers(doomed: Minio) -> None:
    store = S3Store(S3Address.parse(doomed.store_url(next(names))))
    with contextlib.closing(store), contextlib.closing(StorePlace(store, "", PART)) as place:
        place.do(store.prepare())
        place.do(store.check())
        doomed.kill()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            place.do(store.check())


def test_closing_ends_the_waiting_for_a_store_that_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    bucket = Bucket(S3Address.parse(f"s3+http://{KEY}:{SECRET}@127.0.0.1:{port}/bucket"), patience=3600)
    bucket.close()
    with pytest.raises(StoreBusy):
        bucket.size("blobs/one")


# ---------------------------------------------------------------- connections that break


def test_what_came_before_a_break_is_not_asked_for_again(minio: Minio) -> None:
    ranges: list[bytes] = []

    def cut(request: bytes) -> int | None:
        if not request.startswith(b"GET "):
            return None
        ranges.append(request.lower().split(b"range: bytes=")[1].split(b"\r\n")[0])
        return MIB if len(ranges) < 4 else None

    content = os.urandom(PART)
    with relayed(minio, cut) as bucket:
        bucket.put("blobs/one", content)
        assert bucket.read("blobs/one", 100, PART - 200) == content[100:-100]
    starts = [int(asked.split(b"-")[0]) for asked in ranges]
    assert len(starts) == 4
    assert starts == sorted(set(starts))
    assert starts[-1] > 2 * MIB
    assert {asked.split(b"-")[1] for asked in ranges} == {str(PART - 101).encode()}


@pytest.mark.parametrize("passing", [0, 20])
def test_a_lost_answer_to_the_completion_is_no_failure(minio: Minio, passing: int) -> None:
    lost: list[bytes] = []

    def cut(request: bytes) -> int | None:
        if request.startswith(b"POST ") and b"uploadId=" in request.split(b"\r\n")[0] and not lost:
            lost.append(request)
            return passing
        return None

    with relayed(minio, cut) as bucket:
        reference = bucket.open_multipart("blobs/one")
        parts = [
            (1, bucket.put_part("blobs/one", reference, 1, lambda: [bytes(PART)], PART)),
            (2, bucket.put_part("blobs/one", reference, 2, lambda: [b"end"], 3)),
        ]
        bucket.complete("blobs/one", reference, parts)
        assert len(lost) == 1
        assert bucket.size("blobs/one") == PART + 3


def test_a_part_whose_answer_is_lost_is_sent_again_from_its_beginning(minio: Minio) -> None:
    lost: list[bytes] = []

    def cut(request: bytes) -> int | None:
        if request.startswith(b"PUT ") and b"partNumber=" in request and not lost:
            lost.append(request)
            return 10
        return None

    with relayed(minio, cut) as bucket:
        reference = bucket.open_multipart("blobs/one")
        etag = bucket.put_part("blobs/one", reference, 1, lambda: [b"by", b"tes"], 5)
        assert len(lost) == 1
        assert [(part.size, part.etag) for part in bucket.parts("blobs/one", reference)] == [(5, etag)]


def test_an_upload_that_ended_while_the_connection_broke_is_closed(minio: Minio) -> None:
    with relayed(minio, lambda request: 0 if b"partNumber" in request else None) as bucket:
        reference = bucket.open_multipart("blobs/one")
        bucket.abort("blobs/one", reference)
        with pytest.raises(UploadClosed):
            bucket.put_part("blobs/one", reference, 1, lambda: [b"bytes"], 5)


# ---------------------------------------------------------------- busy, full, forgetful


def test_a_busy_store_is_asked_again(tmp_path: Path, built: Path) -> None:
    with Minio(tmp_path, built, MINIO_API_REQUESTS_MAX="1") as server, bucket_at(server.store_url("bucket")) as bucket:
        bucket.put("blobs/one", b"bytes")
        reference = bucket.open_multipart("blobs/two")
        url = urlsplit(bucket._signed("PUT", "blobs/two", {"partNumber": "1", "uploadId": reference}, 1000))
        with socket.create_connection((str(url.hostname), url.port or 80)) as slow:
            head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 1000\r\n"
            slow.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
            assert slow.recv(100).startswith(b"HTTP/1.1 100 ")
            with contextlib.closing(Bucket(bucket.address, patience=0.3)) as hasty:
                with pytest.raises(StoreBusy, match="TooManyRequests"):
                    hasty.read("blobs/one", 0, 5)
            with pytest.raises(StoreBusy):
                bucket.require()
        assert bucket.read("blobs/one", 0, 5) == b"bytes"


@pytest.mark.needs_program("mount")
def test_a_full_store_has_an_error_of_its_own(tmp_path: Path, built: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48M", "tmpfs", str(tmp_path)], capture_output=True, text=True, timeout=30
    )
    if mounted.returncode:
        pytest.skip(f"can't mount a small file system: {mounted.stderr.strip()}")
    try:
        with Minio(tmp_path, built) as server, bucket_at(server.store_url("bucket")) as bucket:
            reference = bucket.open_multipart("blobs/one")
            with pytest.raises(StoreFull):
                fill(bucket, "blobs/one", reference)
            assert bucket.parts("blobs/one", reference) != []
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True, timeout=30)


def fill(bucket: Bucket, key: str, reference: str) -> None:
    """Sends more parts than the small file system of a test takes."""
    for number in range(1, 12):
        bucket.put_part(key, reference, number, partial(iter, [bytes(PART)]), PART)


def ask_on(place: StorePlace, upload: UploadHandle) -> None:
    """Asks for the receipt until that fails. The time limit of tests ends what never does."""
    while True:
        place.do(place.store.receipt(upload))


def test_an_upload_that_the_store_has_dropped_is_closed(tmp_path: Path, built: Path) -> None:
    forgetful = {"MINIO_API_STALE_UPLOADS_EXPIRY": "1s", "MINIO_API_STALE_UPLOADS_CLEANUP_INTERVAL": "1s"}
    with Minio(tmp_path, built, **forgetful) as server:
        store = S3Store(S3Address.parse(server.store_url("bucket")))
        with contextlib.closing(store), contextlib.closing(StorePlace(store, "", PART)) as place:
            place.do(store.prepare())
            upload = place.open(1000)
            place.send_part(upload, 1, bytes(1000))
            with pytest.raises(UploadClosed):
                ask_on(place, upload)
            with pytest.raises(UploadClosed):
                place.do(store.seal_upload(upload))
            assert place.send(store.sign_part(upload, 1, soon()), bytes(1000)).status_code == 404
            place.do(store.abort_upload(upload))
            # MinIO itself goes on listing it until it is started anew.
            assert place.keys() == []


# ---------------------------------------------------------------- certificates


def test_a_certificate_holds_when_its_authority_is_named(
    tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path / "certs")
    with SecureMinio(tmp_path / "minio", built, certificate.parent) as server:
        url = server.store_url("bucket").replace("s3+http:", "s3+https:")
        with contextlib.closing(Bucket(S3Address.parse(url))) as bucket:
            with pytest.raises(StoreUnavailable, match="certificate"):
                bucket.size("blobs/one")
            with pytest.raises(StoreUnavailable, match="certificate"):
                bucket.read("blobs/one", 0, 1)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with bucket_at(url) as bucket:
            reference = bucket.open_multipart("blobs/one")
            etag = bucket.put_part("blobs/one", reference, 1, lambda: [b"bytes"], 5)
            bucket.complete("blobs/one", reference, [(1, etag)])
            assert bucket.read("blobs/one", 0, 5) == b"bytes"
            with pytest.raises(ObjectMissing):
                bucket.size("blobs/two")


class SecureMinio(Minio):
    def __init__(self, folder: Path, program: Path, certificates: Path) -> None:
        super().__init__(folder, program)
        self._certificates = certificates

    def command(self) -> list[str]:
        return [*super().command(), "--certs-dir", str(self._certificates)]

    def is_ready(self) -> bool:
        return answers(self.port)


def self_signed(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that holds by itself, with its key beside it as MinIO wants them."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "private.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public = folder / "public.crt"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return public
