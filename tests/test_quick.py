"""What `make quick` leaves out, and its two guards."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import quick

ROOT = Path(__file__).parents[1]


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Pytest with the plugin on a repository of its own; its status and what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.quick", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two folders of tests; all tests of the second are left out."""
    files = {
        "pytest.ini": "[pytest]\ntestpaths = tests\n",
        "tests/one/test_a.py": "def test_a():\n    pass\n",
        "tests/two/test_b.py": "def test_long():\n    assert 0\n",
        "tests/quick_leaves_out.txt": "# Why.\ntest_long\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_list_is_sorted_and_every_test_in_it_exists() -> None:
    names = quick.listed(ROOT)
    assert names == sorted(set(names))
    source = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE))
    assert set(names) <= defined, "python -m tests.quick writes the list anew"


def test_a_function_is_judged_with_all_its_cases() -> None:
    seconds = {
        "tests/a.py::test_x[1]": 3.0,
        "tests/a.py::test_x[2]": 3.0,
        "tests/b.py::test_y": 4.0,
    }
    assert quick.over(seconds, 0.5) == ["test_x"]
    assert quick.over(seconds, 0.3) == ["test_x", "test_y"]
    assert quick.over(seconds, 0.6) == []


def test_what_the_list_names_does_not_run(repository: Path) -> None:
    status, said = run(repository, "tests/one", "tests/two")
    assert status == 0, said
    assert "1 passed, 1 deselected" in said
    assert "QUICK" not in said  # guards are for a run of all


def test_a_test_that_takes_too_much_and_a_folder_without_any_let_it_fail(repository: Path) -> None:
    status, said = run(repository)
    assert status == 1
    complaints = re.findall(r"^QUICK (.*)$", said, re.MULTILINE)
    assert complaints == [
        "test_a takes more than 5% of the time of all: make it shorter, or add its name to "
        "tests/quick_leaves_out.txt",
        "no test of tests/two is in make quick",
    ]
