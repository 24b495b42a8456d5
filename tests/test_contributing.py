"""The files that a contributor meets first are such that the tools that read them can."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"


@pytest.mark.parametrize("name", ["bug.yml", "idea.yml"])
def test_an_issue_form_is_as_its_published_schema_says(name: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    subprocess.run([*command, "vendor.github-issue-forms", FORMS / name], check=True)


def test_the_page_before_the_forms_is_as_its_published_schema_says() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    subprocess.run([*command, "vendor.github-issue-config", FORMS / "config.yml"], check=True)


def test_what_looks_for_newer_packages_is_set_as_its_published_schema_says() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.dependabot"]
    subprocess.run([*command, ROOT / ".github" / "dependabot.yml"], check=True)


def test_every_make_target_of_the_page_is_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    page = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page, re.MULTILINE))
    assert {"install", "quick", "check", "format", "audit"} <= named <= targets


def test_the_hooks_run_what_make_lint_runs() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"  # no network, and the versions of constraints.txt
    assert {hook["language"] for hook in repo["hooks"]} == {"system", "pygrep"}
    tools = [hook["entry"].split()[0] for hook in repo["hooks"] if hook["language"] == "system"]
    hooks = {tool.removeprefix(".venv/bin/") for tool in tools}
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    assert hooks == {
        line.split()[0].removeprefix("$(BIN)/") for line in lint.splitlines()[1:] if line.strip()
    }


def test_to_serve_installs_no_tools_of_development(tmp_path: Path) -> None:
    """And to develop installs them into the same environment afterwards."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def plan(*arguments: str) -> list[str]:
        command = ["make", "-n", "-C", str(tmp_path), *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return [line for line in done.stdout.splitlines() if "pip install" in line]

    (serving,) = plan("serve", "TORCH_INDEX_URL=")
    assert serving.endswith("--editable .")
    assert "--quiet" not in serving
    first, second = plan("install", "TORCH_INDEX_URL=")
    assert first == serving
    assert second.endswith("--editable '.[dev]'")
    torch, last = plan("serve", "TORCH_INDEX_URL=some/where")
    assert torch.endswith("--no-deps --index-url 'some/where' torch torchvision")
    assert last == serving
