"""The contracts of import-linter hold, and break where somebody breaks them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code that a test may break."""
    folder = tmp_path_factory.mktemp("house")
    for package in ("service", "rapid_core"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("assets", "__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as main; main()",
    ]
    return subprocess.run(
        [*command, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_contracts_are_kept(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("service/pipeline/choice.py", "import service.api.problems", "never runs back up"),
        ("service/images/decode.py", "import service.models.catalog", "never runs back up"),
        ("service/scheduling/lanes.py", "import service.settings", "never runs back up"),
        ("service/scheduling/lanes.py", "import service.scheduling.batcher", "No circle"),
        ("service/scheduling/lanes.py", "import torch", "No torch"),
        ("service/pipeline/choice.py", "import starlette.requests", "HTTP is known"),
        ("service/runtime/build.py", "import uvicorn", "The server's own parts"),
        ("service/pipeline/choice.py", "import prometheus_client", "written by the record"),
        ("service/pipeline/choice.py", "import service.telemetry.metrics", "written by the record"),
        ("service/models/served.py", "import timm", "One door to the model zoo"),
        ("service/images/decode.py", "import rapid_core", "Token reduction"),
        ("service/models/served.py", "import openvino", "optional package"),
        ("rapid_core/schedule.py", "import rapid_core.patch", "one direction"),
        ("rapid_core/vit.py", "import timm", "The core knows torch"),
        ("rapid_core/methods/tome.py", "def f() -> None:\n    import service.tiers", "The core"),
    ],
)
def test_a_wrong_import_breaks_its_contract(copy: Path, file: str, line: str, broken: str) -> None:
    path = copy / file
    before = path.read_text()
    path.write_text(f"{before}\n\n{line}\n")
    try:
        done = lint(copy)
    finally:
        path.write_text(before)
    assert done.returncode == 1
    kept = [row for row in done.stdout.splitlines() if row.endswith(" BROKEN")]
    assert any(broken in row for row in kept), done.stdout


def test_no_module_hides_in_a_string() -> None:
    """An import by a name in a string would be an arrow that no contract sees."""
    for package in ("service", "rapid_core"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            if path.name != "fused.py":  # Triton is there or not, and its kernels with it
                assert "import_module" not in text, path
                assert "__import__" not in text, path
