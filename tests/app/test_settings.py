"""The configuration: what is given goes before the environment, and what can't work is said at once."""

import concurrent.futures
import stat
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.adapters.chosen import needs_data_folder
from app.errors import SettingsError
from app.settings import ArchiveRate, Settings, load_settings
from app.sizes import GIB, MIB, TIB

EVERYTHING_OUTSIDE = {
    "database_url": "postgresql://ann:geheim@db:5432/images?sslmode=require",
    "broker_url": "redis://:geheim@broker:6379/3",
    "object_store": "s3+https://key:geheim@store:9000/bucket/below",
}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the settings of the environment that runs the tests."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"IMAGES_{name.upper()}", raising=False)
    monkeypatch.delenv("IMAGES_SHARE_BYTES", raising=False)


def test_what_nobody_says_is_what_the_documents_promise() -> None:
    settings = load_settings()
    assert settings.single_part_limit == 50 * GIB
    assert settings.upload_limit == 16 * TIB
    assert settings.minimum_part_size == 16 * MIB
    assert settings.maximum_parts == 10_000
    assert settings.upload_idle_seconds == 24 * 3600
    assert settings.feed_days == 7
    assert settings.custom_images_limit == 50


def test_the_environment_is_read_and_what_is_given_goes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGES_PORT", "9000")
    monkeypatch.setenv("IMAGES_HOST", "::1")
    settings = load_settings(port=9001, host=None)
    assert (settings.port, settings.host) == (9001, "::1")


def test_the_old_name_of_a_setting_is_accepted_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGES_SHARE_BYTES", "4096")

    with capture_logs() as logs:
        settings = load_settings()

    assert settings.split_bytes == 4096
    assert [(line["event"], line["log_level"], line["old"], line["new"]) for line in logs] == [
        ("settings.renamed", "warning", "IMAGES_SHARE_BYTES", "IMAGES_SPLIT_BYTES")
    ]


def test_the_new_name_of_a_setting_overrides_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGES_SHARE_BYTES", "4096")
    monkeypatch.setenv("IMAGES_SPLIT_BYTES", "8192")

    assert load_settings().split_bytes == 8192
    assert load_settings(split_bytes=5).split_bytes == 5


def test_an_invalid_value_under_an_old_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGES_SHARE_BYTES", "many")

    with pytest.raises(SettingsError, match="IMAGES_SPLIT_BYTES: "):
        load_settings()


def test_trusted_proxies_are_addresses_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGES_TRUSTED_PROXIES", "192.0.2.7, 10.0.0.0/8,fc00::/7")

    settings = load_settings()

    assert settings.trusted_proxies == ("192.0.2.7", "10.0.0.0/8", "fc00::/7")


@pytest.mark.parametrize("given", ["*", "proxy", "10.0.0.1/8"])
def test_whom_to_trust_is_not_left_open(given: str) -> None:
    with pytest.raises(SettingsError, match=r"IMAGES_TRUSTED_PROXIES: .*192\.0\.2\.7,10\.0\.0\.0/8"):
        load_settings(trusted_proxies=given)


def test_rates_are_read_in_the_order_of_their_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGES_ARCHIVE_RATES", " 2026-07-01=0.0030, 2026-01-01=0.0036,")
    assert load_settings().archive_rates == (
        ArchiveRate(date(2026, 1, 1), Decimal("0.0036")),
        ArchiveRate(date(2026, 7, 1), Decimal("0.0030")),
    )


def test_what_lies_in_the_data_folder_follows_it(tmp_path: Path) -> None:
    settings = load_settings(data=tmp_path)
    assert settings.database_address == f"sqlite+aiosqlite:///{tmp_path}/images.db"
    assert settings.objects_path == tmp_path / "store"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("PORT", "http"),
        ("WORKERS", "0"),
        ("MAXIMUM_PARTS", "10001"),
        ("UPLOAD_IDLE_SECONDS", "0"),
        ("UPLOAD_IDLE_SECONDS", "-1"),
        ("CUSTOM_IMAGES_LIMIT", "0"),
        ("JWT_ALGORITHM", "HS256"),
        ("JWT_ALGORITHM", "none"),
        ("FEED_DAYS", "0"),
        ("ARCHIVE_RATES", "0.004"),
        ("ARCHIVE_RATES", "2026-02-30=0.004"),
        ("ARCHIVE_RATES", "2026-01-01=-1"),
        ("ARCHIVE_RATES", "2026-01-01=1e3"),
        ("ARCHIVE_RATES", "2026-01-01=0.004,2026-01-01=0.005"),
        ("ARCHIVE_CURRENCY", "euro"),
        ("CONVERSIONS_PER_PROJECT", "0"),
        ("OPERATOR_CLAIM", "roles="),
        ("OPERATOR_CLAIM", "=chief"),
    ],
)
def test_what_can_not_work_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"IMAGES_{name}", value)
    with pytest.raises(SettingsError, match=f"IMAGES_{name}: "):
        load_settings()


def test_everything_that_is_wrong_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGES_PORT", "x")
    monkeypatch.setenv("IMAGES_WORKERS", "x")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert "IMAGES_PORT" in str(refused.value)
    assert "IMAGES_WORKERS" in str(refused.value)


def test_a_short_secret_is_refused_with_the_way_to_a_good_one() -> None:
    with pytest.raises(SettingsError, match="openssl rand -hex 32"):
        load_settings(secret="s" * 31)
    assert load_settings(secret="s" * 32).secret_bytes == b"s" * 32


def test_a_secret_is_not_shown() -> None:
    assert "geheim" not in repr(load_settings(secret="geheim" * 6))


def test_a_secret_that_nobody_gave_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    first = load_settings(data=tmp_path / "new").secret_bytes
    assert len(first) == 64
    assert load_settings(data=tmp_path / "new").secret_bytes == first
    assert stat.S_IMODE((tmp_path / "new" / "secret").stat().st_mode) == 0o600
    assert load_settings(data=tmp_path / "other").secret_bytes != first


def test_processes_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        secrets = list(threads.map(lambda _: load_settings(data=tmp_path).secret_bytes, range(16)))
    assert len(set(secrets)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("https://a.example", ("https://a.example",)),
        ("https://a.example, https://b.example", ("https://a.example", "https://b.example")),
        ("*", ("*",)),
    ],
)
def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, ...]) -> None:
    monkeypatch.setenv("IMAGES_ALLOWED_ORIGINS", text)
    assert load_settings().allowed_origins == expected


def test_without_addresses_everything_is_here(tmp_path: Path) -> None:
    settings = load_settings(data=tmp_path)
    assert (settings.database_url, settings.broker_url, settings.object_store, settings.s3) == (None, None, None, None)
    assert needs_data_folder(settings)


@pytest.mark.parametrize("name", ["DATABASE_URL", "BROKER_URL", "OBJECT_STORE"])
def test_an_empty_address_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"IMAGES_{name}", "")
    assert getattr(load_settings(), name.lower()) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://ann:geheim@db"),
        ("DATABASE_URL", "postgresql://ann:geheim@db:none/images"),
        ("DATABASE_URL", "mysql://ann:geheim@db/images"),
        ("DATABASE_URL", "postgresql://ann:geheim/word@db/images"),
        ("BROKER_URL", "amqp://ann:geheim@broker"),
        ("BROKER_URL", "redis://:geheim@"),
        ("BROKER_URL", "redis://:geheim@broker:70000"),
        ("OBJECT_STORE", "s3+http://images:geheim@store"),
        ("OBJECT_STORE", "s3+http://images:geheim@store/No"),
        ("OBJECT_STORE", "http://images:geheim@store/images"),
        ("OBJECT_STORE", "s3+http://geheim@store/images"),
        ("OBJECT_STORE_PUBLIC_URL", "store:9000"),
        ("OBJECT_STORE_PUBLIC_URL", "https://store/below"),
    ],
)
def test_an_address_that_can_not_work_is_named_without_its_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"IMAGES_{name}", value)
    with pytest.raises(SettingsError, match=f"IMAGES_{name}: ") as refused:
        load_settings()
    assert "geheim" not in str(refused.value)


def test_secrets_in_addresses_are_not_shown() -> None:
    assert "geheim" not in repr(load_settings(**EVERYTHING_OUTSIDE))


def test_addresses_are_read_as_they_are_meant() -> None:
    settings = load_settings(**EVERYTHING_OUTSIDE)
    assert settings.database_address == "postgresql+asyncpg://ann:geheim@db:5432/images?sslmode=require"
    assert settings.s3 is not None
    assert (settings.s3.endpoint, settings.s3.bucket, settings.s3.prefix) == ("https://store:9000", "bucket", "below/")


def test_a_folder_may_be_anywhere(tmp_path: Path) -> None:
    settings = load_settings(object_store=f"file://{tmp_path}/some%20where")
    assert settings.s3 is None
    assert settings.objects_path == tmp_path / "some where"


def test_amazon_takes_smaller_parts_than_we_do() -> None:
    amazon = load_settings(object_store="s3+https://key:secret@s3.eu-central-1.amazonaws.com/bucket")
    assert amazon.largest_part == 5 * GIB
    assert load_settings(**EVERYTHING_OUTSIDE).largest_part == 50 * GIB


def test_with_everything_outside_no_data_folder_is_needed(tmp_path: Path) -> None:
    assert not needs_data_folder(load_settings(secret="s" * 32, **EVERYTHING_OUTSIDE))
    assert not needs_data_folder(load_settings(jwt_issuer="https://issuer", **EVERYTHING_OUTSIDE))
    folder = EVERYTHING_OUTSIDE | {"object_store": f"file://{tmp_path}"}
    assert not needs_data_folder(load_settings(secret="s" * 32, **folder))


@pytest.mark.parametrize("missing", ["database_url", "object_store", "secret"])
def test_what_is_not_outside_is_kept_in_the_data_folder(missing: str) -> None:
    given = {"secret": "s" * 32, **EVERYTHING_OUTSIDE}
    assert needs_data_folder(load_settings(**{name: value for name, value in given.items() if name != missing}))


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
