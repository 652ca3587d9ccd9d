"""Signed addresses: the same as those of the minio package, where it can make them."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import minio
import pytest

from app.adapters.s3.signing import Signer
from app.s3_address import S3Address

NOW = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
HOUR = timedelta(hours=1)


def address(host: str = "store.example:9000", signs_by: str = "a secret") -> S3Address:
    return S3Address(host, True, "bucket", "the-key", signs_by, "a/prefix/", "eu-central-1")


def of_the_package(address: S3Address, key: str, query: dict[str, str | list[str] | tuple[str]]) -> str:
    client = minio.Minio(address.host, address.key, address.secret, secure=address.secure, region=address.region)
    return client.get_presigned_url(
        "GET", address.bucket, address.prefix + key, expires=HOUR, request_date=NOW, extra_query_params=query
    )


@pytest.mark.parametrize("host", ["store.example", "store.example:9000", "store.example:443", "[2001:db8::1]:9000"])
@pytest.mark.parametrize(
    "query",
    [
        {},
        {"response-content-disposition": "attachment; filename=\"a b~+'(1)*.img\"; filename*=UTF-8''%C3%A9"},
        {"versionId": "", "partNumber": "17"},
    ],
)
def test_an_address_is_signed_as_the_minio_package_does_it(host: str, query: dict[str, str]) -> None:
    at = address(host, signs_by="a/secret+with=signs and é")
    theirs = urlsplit(of_the_package(at, "blobs/a-1_2.~x", {**query}))
    ours = urlsplit(Signer(at).sign("GET", "blobs/a-1_2.~x", query, at=NOW, lifetime=HOUR))
    assert (ours.scheme, ours.netloc, ours.path) == (theirs.scheme, theirs.netloc, theirs.path)
    assert sorted(ours.query.split("&")) == sorted(theirs.query.split("&"))


def test_the_length_is_among_what_is_signed() -> None:
    signer = Signer(address())
    urls = [signer.sign("PUT", "k", {}, at=NOW, lifetime=HOUR, length=length) for length in (None, 0, 1000, 1001)]
    signed = [parse_qs(urlsplit(url).query)["X-Amz-SignedHeaders"] for url in urls]
    assert signed == [["host"], *[["content-length;host"]] * 3]
    assert len({parse_qs(urlsplit(url).query)["X-Amz-Signature"][0] for url in urls}) == 4


@pytest.mark.parametrize(
    ("endpoint", "origin"),
    [
        ("https://images.example", "https://images.example"),
        ("https://images.example:443", "https://images.example"),
        ("http://images.example:80", "http://images.example"),
        ("http://images.example:443", "http://images.example:443"),
    ],
)
def test_an_address_is_signed_for_where_clients_send_it(endpoint: str, origin: str) -> None:
    parts = urlsplit(Signer(address(), endpoint).sign("GET", "k", {}, at=NOW, lifetime=HOUR))
    assert f"{parts.scheme}://{parts.netloc}" == origin


def test_another_day_region_or_secret_signs_otherwise() -> None:
    def signature(at: datetime = NOW, **changed: str) -> str:
        other = S3Address("store.example", True, "bucket", "the-key", **{"secret": "secret", **changed})
        return Signer(other).sign("GET", "k", {}, at=at, lifetime=HOUR).rpartition("=")[2]

    assert signature() == signature()
    others = {signature(), signature(NOW + timedelta(seconds=1)), signature(region="r"), signature(secret="s")}
    assert len(others) == 4
