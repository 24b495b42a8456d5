"""Settings are read from the environment once, and checked."""

import pytest

from service.errors import SettingsError
from service.settings import Settings


def read(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings.from_environment()


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, RAPID_MODELS="a, b=/models/c,", RAPID_WARMUP_TIERS="exact,turbo")
    assert settings.models == ("a", "b=/models/c")
    assert settings.warmup_tiers == ("exact", "turbo")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("RAPID_MAX_BATCHSIZE", "RAPID_MAX_BATCH_SIZE"),
        ("RAPID_MODEL", "RAPID_MODELS"),
        ("rapid_prot", "RAPID_PORT"),
        ("RAPID_DEFAULT_TEIR", "RAPID_DEFAULT_TIER"),
    ],
)
def test_a_misspelt_setting_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, name: str, nearest: str
) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is not a setting; did you mean {nearest}"):
        read(monkeypatch, **{name: "1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAPID_PORT", "70000"),
        ("RAPID_PORT", "many"),
        ("RAPID_MAX_BATCH_SIZE", "0"),
        ("RAPID_DEFAULT_TIER", "fastest"),
        ("RAPID_WARMUP_TIERS", "exact,fastest"),
        ("RAPID_MODELS", " , "),
        ("RAPID_DEVICE", "tpu"),
        ("RAPID_DEADLINE_MS", "nan"),
    ],
)
def test_a_value_that_is_not_allowed_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(SettingsError, match=name):
        read(monkeypatch, **{name: value})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1
