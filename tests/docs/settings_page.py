"""docs/settings.md, out of the settings themselves.

`python -m tests.docs.settings_page` writes it anew.
"""

from collections.abc import Iterator

from service.settings import THEMES, Settings
from service.settings.names import flag, variable
from tests.docs.pages import DOCS

PATH = DOCS / "settings.md"

HEAD = """\
# Settings

Every setting is an environment variable and a flag of `rapid serve`. A flag beats its variable.
A variable or a flag that is misspelt stops the start, with a message that names the nearest one.
What a model name may be: [models.md](models.md). Which numbers to choose:
[operations.md](operations.md).

This page is written by `python -m tests.docs.settings_page`; a test fails when it is stale.
"""
TABLE = "| variable | flag | default | meaning |\n|---|---|---|---|\n"


def expected() -> str:
    """The whole page."""
    return HEAD + "".join(_lines())


def _lines() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        if name in THEMES:
            yield f"\n## {THEMES[name]}\n\n{TABLE}"
        default = field.default
        text = ",".join(default) if isinstance(default, tuple) else str(default)
        meaning = (field.description or "").replace("|", r"\|")
        yield f"| `{variable(name)}` | `{flag(name)}` | `{text}` | {meaning} |\n"


if __name__ == "__main__":
    PATH.write_text(expected())
