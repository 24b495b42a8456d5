"""The image: what its Dockerfile promises, and its steps, executed without an engine."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from service.api.app import create_app
from service.settings import Settings
from service.settings.names import PREFIX
from tests.deploy.dockerfile import (
    Build,
    Instruction,
    base_environment,
    is_ignored,
    only,
    pairs,
    sources,
    stages,
)
from tests.waiting import PATIENCE_S, eventually, free_port

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILDER, FINAL = stages(DOCKERFILE)
(PYTHON_IMAGE,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)", DOCKERFILE.read_text(), re.MULTILINE)


def healthcheck() -> list[str]:
    _, _, command = only(FINAL, "HEALTHCHECK").value.partition("CMD ")
    return Instruction("CMD", command).command


def copied() -> list[str]:
    """What the Dockerfile takes from the context."""
    steps = [sources(step) for step in BUILDER + FINAL if step.name == "COPY"]
    return [path for stage, paths, _ in steps if stage is None for path in paths]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_runs_as_a_user_that_kubernetes_can_tell_from_root() -> None:
    user, _, group = only(FINAL, "USER").value.partition(":")
    assert int(user) >= 1000
    assert int(group) >= 1000


def test_nothing_runs_as_root_in_the_stage_that_is_shipped() -> None:
    assert not [step for step in FINAL if step.name in {"RUN", "ADD"}]


def test_signals_reach_the_service_and_not_a_shell() -> None:
    assert only(FINAL, "ENTRYPOINT").command == ["rapid"]
    assert only(FINAL, "CMD").command == ["serve"]
    assert only(FINAL, "STOPSIGNAL").value == "SIGTERM"
    assert PROJECT["project"]["scripts"]["rapid"] == "service.__main__:main"


def test_its_health_is_asked_for_with_what_is_there_and_where_it_listens() -> None:
    command = healthcheck()
    assert command[0] == "python"
    assert "curl" not in command[-1]
    assert "wget" not in command[-1]
    assert set(re.findall(rf"{PREFIX}\w+", command[-1])) == {"RAPID_HOST", "RAPID_PORT"}
    (path,) = re.findall(r"'GET', '(/\w+)'", command[-1])
    assert path in create_app(Settings()).openapi()["paths"]


def test_its_settings_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {name: value for name, value in pairs(FINAL, "ENV").items() if PREFIX in name}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_environment(variables)
    assert settings.host == "0.0.0.0"
    assert str(settings.port) == only(FINAL, "EXPOSE").value
    assert settings.port == Settings.model_fields["port"].default


def test_all_that_is_copied_is_there_and_nothing_else_is_sent() -> None:
    for path in copied():
        assert (ROOT / path).exists(), path
        assert not is_ignored(path, IGNORED), path
    sent = {path.name for path in ROOT.iterdir() if not is_ignored(path.name, IGNORED)}
    assert sent == set(copied())


def test_all_that_the_package_is_made_of_is_copied() -> None:
    project = PROJECT["project"]
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {*packages, *project["license-files"], project["readme"], "pyproject.toml"}
    assert {*needed, "constraints.txt"} == set(copied())


@pytest.mark.parametrize(
    ("path", "patterns", "ignored"),
    [
        ("README.md", ["*"], True),
        ("service/app.py", ["*"], True),
        ("service/app.py", ["*", "!service"], False),
        ("service/__pycache__/app.pyc", ["*", "!service", "**/__pycache__"], True),
        ("service/app.pyc", ["*", "!service", "**/*.py[co]"], True),
        ("service/app.pyx", ["*", "!service", "**/*.py[co]"], False),
        ("service/app.py", ["app.py", "*.py"], False),
        ("service/app.py", ["# service", "", "/service/"], True),
        ("a/b/c", ["a/?/c"], True),
        ("services", ["service"], False),
    ],
)
def test_dockerignore_is_read_as_docker_reads_it(
    path: str, patterns: list[str], ignored: bool
) -> None:
    assert is_ignored(path, patterns) is ignored


def test_both_stages_have_the_python_that_the_package_needs_at_least() -> None:
    assert {only(stage, "FROM").value.split()[0] for stage in (BUILDER, FINAL)} == {
        "${PYTHON_IMAGE}"
    }
    version = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert PYTHON_IMAGE.startswith(f"python:{version}-slim-")


def test_its_labels_say_what_the_package_says() -> None:
    labels = pairs(FINAL, "LABEL")
    image = "org.opencontainers.image."
    assert labels[image + "title"] == PROJECT["project"]["name"]
    assert labels[image + "description"] == PROJECT["project"]["description"]
    assert labels[image + "licenses"] == PROJECT["project"]["license"]
    assert pairs(FINAL, "ARG")["VERSION"] == PROJECT["project"]["version"]


def test_its_page_tells_the_truth() -> None:
    page = (ROOT / "docs" / "docker.md").read_text()
    for path in re.findall(r"(?<![\w/])(?:docker|deploy)/[\w./]+", page):
        if path != "docker/rapid.env":  # is for the reader to write
            assert (ROOT / path).exists(), path
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`|none) \|", page, re.MULTILINE))
    arguments = {"PYTHON_IMAGE": PYTHON_IMAGE, **pairs(BUILDER + FINAL, "ARG")}
    assert rows == arguments
    (stop_timeout_s,) = re.findall(r"--stop-timeout (\d+)", page)
    settings = Settings()
    assert int(stop_timeout_s) > settings.drain_delay_s + settings.drain_timeout_s


def test_every_step_can_be_executed_in_another_folder() -> None:
    for step in BUILDER:
        if step.name == "RUN":
            assert not re.search(r"""(^|[\s"'=])/\w""", step.value), step.value


@pytest.mark.slow
@pytest.mark.e2e
def test_its_steps_make_a_service_that_starts_is_healthy_and_stops(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    builder = Build(ROOT, tmp_path, base_environment())
    builder.run(BUILDER, {"TORCH_INDEX_URL": "", "EXTRAS": "openvino"})
    image = Build(ROOT, tmp_path, base_environment())
    image.run(FINAL, {})
    shipped = files(tmp_path)
    environment = {
        **image.environment,
        "RAPID_PORT": str(free_port()),
        "RAPID_BACKEND": "openvino",
        "RAPID_NUM_THREADS": "1",
        "RAPID_WARMUP_TIERS": "balanced",
        "RAPID_DRAIN_DELAY_S": "0",
    }

    def is_healthy() -> bool:
        return execute(healthcheck(), image.folder, environment).wait(PATIENCE_S) == 0

    assert not is_healthy()
    start = only(FINAL, "ENTRYPOINT").command + only(FINAL, "CMD").command
    service = execute(start, image.folder, environment)
    try:
        # Each look is a process of its own, which takes the processor from the service.
        eventually(lambda: service.poll() is not None or is_healthy(), pause_s=1)
        assert service.poll() is None
        service.terminate()
        assert service.wait(PATIENCE_S) == 0
    finally:
        service.kill()
        service.wait()
    # As it may where nothing but /tmp can be written.
    assert {path for path in files(tmp_path) - shipped if path.parts[0] != "tmp"} == set()


def execute(
    command: list[str], folder: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start a command that is looked for on the PATH of its own environment."""
    return subprocess.Popen(["/usr/bin/env", *command], cwd=folder, env=environment)


def files(root: Path) -> set[Path]:
    """All files in a folder, by their path in it."""
    return {
        Path(folder, name).relative_to(root) for folder, _, names in os.walk(root) for name in names
    }
