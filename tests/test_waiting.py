"""What the tests wait with, and what they may not leave behind."""

import subprocess
import sys

import pytest

from tests import waiting
from tests.conftest import leftovers

SLEEPS = "import time; time.sleep(600)"


def test_it_looks_until_something_holds() -> None:
    looks = iter([False, False, True])
    waiting.eventually(lambda: next(looks))
    assert list(looks) == []


def test_what_hangs_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.05)
    with pytest.raises(AssertionError, match="it did not happen"):
        waiting.eventually(lambda: False)


def test_a_process_that_is_left_is_named() -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPS]) as process:
        named = [name for name in leftovers() if name.startswith(f"process {process.pid}:")]
        process.kill()
    assert len(named) == 1
    assert not any(name.startswith(f"process {process.pid}:") for name in leftovers())
