"""docs/library.md runs as it stands, from top to bottom."""

import os
import subprocess
import sys

from service.settings.names import PREFIX
from tests.conftest import EXACT
from tests.docs.pages import DOCS, ROOT, blocks

BLOCKS = blocks((DOCS / "library.md").read_text(), "python")
(RUNTIME,) = [block for block in BLOCKS if "Runtime(" in block]

NO_WEB_FRAMEWORK = """
import sys
found = {"fastapi", "starlette", "uvicorn"} & set(sys.modules)
assert not found, found
"""


def run(code: str) -> str:
    """Run a program from the repository's root; returns what it printed.

    Raises:
        AssertionError: it failed; the message is what it wrote.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    clean |= EXACT  # no trial
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_runtime_answers_without_a_web_framework() -> None:
    assert run(RUNTIME + NO_WEB_FRAMEWORK) == "owl Phase.READY\n"


def test_the_runtime_takes_about_ten_lines() -> None:
    code = [line for line in RUNTIME.splitlines() if line and "import" not in line]
    assert len(code) <= 10


def test_the_other_examples_run_and_say_what_comes_out() -> None:
    claims = """
assert logits.shape == trace.logits.shape == (2, 1000)
assert round(rapid_core.macs(fast) / rapid_core.macs(model), 2) == 0.65
assert bundled.labels[best] == "owl"
assert 0 <= found.agreement <= 1
"""
    run("\n".join(block for block in BLOCKS if block != RUNTIME) + claims)
