"""`make quick`: every test that is neither slow nor e2e, without the long ones; a plugin of pytest.

The long ones are listed by name in `quick_leaves_out.txt`. Two guards keep `make quick` quick and
whole, and fail it: no test function, with all its cases, may take more than a fixed share of the
time of all, and no folder of tests may be left out. The share is one of the same run, so that no
machine is too slow for it.

`python -m tests.quick` writes the list anew. It runs all fast tests, one after the other.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

LIST = Path("tests/quick_leaves_out.txt")
FAST = "not gpu and not slow and not e2e"
LONG = 1 / 250
"""share of the time of all fast tests from which a test function is long"""
TOO_LONG = 1 / 20
"""share of the time of `make quick` that no test function may take. Where the list has just been
written, none takes half of that: so noise does not reach it."""


def listed(root: Path) -> list[str]:
    """The names of the test functions that are left out."""
    return [line for line in (root / LIST).read_text().splitlines() if line and line[0] != "#"]


def function(nodeid: str) -> str:
    """The name of a test function, without its file and parameters."""
    return nodeid.partition("[")[0].rpartition("::")[2]


def over(seconds: Mapping[str, float], share: float) -> list[str]:
    """The test functions that take more than a share of the time of all."""
    limit = share * sum(seconds.values())
    sums: dict[str, float] = defaultdict(float)
    for nodeid, duration in seconds.items():
        sums[function(nodeid)] += duration
    return sorted(name for name in sums if sums[name] > limit)


def missing(root: Path, nodeids: Iterable[str]) -> list[str]:
    """The folders below `tests` that hold tests, none of which is among these."""
    seen = {Path(nodeid.partition("::")[0]).parent for nodeid in nodeids}
    folders = {path.parent.relative_to(root) for path in (root / "tests").rglob("test_*.py")}
    return sorted(str(folder) for folder in folders - seen)


class Guard:
    """Adds up how long each test takes, and judges a run of all tests at its end."""

    def __init__(self, *, judges: bool) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._judges = judges
        self._complaints: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add what a test, its set-up or its end took."""
        self.seconds[report.nodeid] += report.duration

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Let the run fail where a guard complains."""
        if not self._judges or session.exitstatus != pytest.ExitCode.OK:
            return
        self._complaints = [
            f"{name} takes more than {TOO_LONG:.0%} of the time of all: make it shorter, or add "
            f"its name to {LIST}"
            for name in over(self.seconds, TOO_LONG)
        ]
        for folder in missing(session.config.rootpath, self.seconds):
            self._complaints.append(f"no test of {folder} is in make quick")
        if self._complaints:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what the guards complain of."""
        for complaint in self._complaints:
            terminalreporter.write_line(f"QUICK {complaint}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Guard a run of all tests; of several processes that share them, in the one that leads."""
    if not hasattr(config, "workerinput"):
        is_whole = config.args == config.getini("testpaths")
        config.pluginmanager.register(Guard(judges=is_whole))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the list names."""
    left_out = set(listed(config.rootpath))
    long = [item for item in items if function(item.nodeid) in left_out]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if function(item.nodeid) not in left_out]


def write_list() -> int:
    """Measure all fast tests and write the list; returns the exit status of pytest."""
    guard = Guard(judges=False)
    status = pytest.main(["-q", "-m", FAST, "-p", "no:xdist"], plugins=[guard])
    if status == pytest.ExitCode.OK:
        head = re.findall(r"^#.*\n", LIST.read_text(), re.MULTILINE)
        LIST.write_text("".join([*head, *(f"{name}\n" for name in over(guard.seconds, LONG))]))
    return int(status)


if __name__ == "__main__":
    sys.exit(write_list())
