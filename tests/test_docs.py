"""What the README says is what there is."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

import rapid_core
from service.app import create_app
from service.metrics import Metrics
from service.settings import PREFIX, Settings
from service.tiers import TIERS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_setting_stands_in_the_readme_with_its_default() -> None:
    rows = dict(re.findall(rf"^\| `({PREFIX}\w+)` \| `([^`]*)` \|", README, re.MULTILINE))
    defaults = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        text = ",".join(default) if isinstance(default, tuple) else str(default)
        defaults[PREFIX + name.upper()] = text
    assert rows == defaults


def test_every_endpoint_stands_in_the_readme() -> None:
    for every_version in create_app(Settings()).openapi()["paths"]:
        path = every_version.replace("/versions/{version}", "")
        assert f"`{path}`" in README or f" {path}`" in README, path


def test_every_tier_stands_in_the_readme() -> None:
    assert re.findall(r"^\| `(\w+)` \| \d", README, re.MULTILINE) == list(TIERS)


def test_the_table_of_metrics_is_the_registry() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    registered = {
        (
            metric._name + ("_total" if metric._type == "counter" else ""),
            metric._type,
            ", ".join(metric._labelnames),
            metric._documentation,
        )
        for metric in registry._collector_to_names
        if isinstance(metric, MetricWrapperBase)
    }
    page = (ROOT / "docs" / "metrics.md").read_text()
    row = r"^\| `(rapid_\w+)` \| (\w+) \| ([\w, ]*) \| (.*) \|$"
    assert {tuple(map(str.strip, cells)) for cells in re.findall(row, page, re.M)} == registered


def test_every_method_and_option_has_its_half_page() -> None:
    pages = (ROOT / "docs" / "methods.md").read_text()
    for name, method in rapid_core.METHODS.items():
        assert re.search(rf"^##+ .*`?{name}`?", pages, re.MULTILINE), name
        for option in fields(method):  # type: ignore[arg-type]
            assert f"| `{option.name}` |" in pages, option.name


def test_every_make_target_of_the_readme_is_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets


@pytest.mark.parametrize(
    "folder", ["rapid_core", "service", "tests", "benchmarks", "docs", ".ci", "docker", "deploy"]
)
def test_no_path_of_somebodys_machine(folder: str) -> None:
    for path in (ROOT / folder).rglob("*"):
        if path.suffix in {".py", ".md", ".toml", ".yml", ".sh", ""} and path.is_file():
            assert not re.search(r"(?<![\w.])/(home|root|Users)/\w", path.read_text()), path
