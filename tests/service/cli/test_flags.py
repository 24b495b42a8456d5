"""The flags of `rapid serve` reach the settings."""

import typer
from typer.testing import CliRunner

from service.cli.flags import with_flags
from service.settings import THEMES, Settings
from service.settings.names import flag


def given(*arguments: str) -> dict[str, str]:
    """What a command gets from its flags."""
    seen: dict[str, str] = {}
    app = typer.Typer()
    app.command()(with_flags(lambda flags: seen.update(flags) or 0))
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return seen


def test_only_what_is_given_arrives() -> None:
    assert given() == {}
    assert given("--port", "9000", "--models", "a,b") == {"port": "9000", "models": "a,b"}


def test_every_setting_has_its_flag() -> None:
    for name in Settings.model_fields:
        assert given(flag(name), "some text") == {name: "some text"}


def test_text_becomes_what_the_setting_is() -> None:
    settings = Settings.read(
        {"port": "9000", "models": "a, b=/models/c,", "warmup_tiers": "exact", "max_wait_ms": "0.5"}
    )
    assert settings.port == 9000
    assert settings.models == ("a", "b=/models/c")
    assert settings.warmup_tiers == ("exact",)
    assert settings.max_wait_ms == 0.5


def test_every_theme_begins_with_a_setting() -> None:
    assert list(THEMES) == [name for name in Settings.model_fields if name in THEMES]
    assert next(iter(Settings.model_fields)) in THEMES
