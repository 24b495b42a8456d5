"""docs/settings.md is what the settings are."""

from service.settings import THEMES, Settings
from tests.docs import settings_page


def test_the_page_is_not_stale() -> None:
    assert settings_page.PATH.read_text() == settings_page.expected(), (
        "run `python -m tests.docs.settings_page`"
    )


def test_every_setting_stands_under_a_heading() -> None:
    assert next(iter(Settings.model_fields)) in THEMES
    assert set(THEMES) <= set(Settings.model_fields)
