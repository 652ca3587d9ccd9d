"""The configuration: what is given goes before the environment, and what can't work is said at once."""

import concurrent.futures
import stat
from pathlib import Path

import pytest

from app.errors import SettingsError
from app.settings import GIB, MIB, TIB, Settings, load_settings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests don't count."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"IMAGES_{name.upper()}", raising=False)


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


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
