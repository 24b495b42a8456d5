"""What the README and the pages of docs/ say is what there is."""

import re
from dataclasses import fields

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

import rapid_core
from service.api.app import create_app
from service.api.parameters import ClassifyParameters
from service.api.problems import STATUS
from service.api.v1.schemas import ClassifyResponse
from service.settings import Settings
from service.settings.names import PREFIX, flag
from service.telemetry.metrics import Metrics
from service.tiers import TIERS
from tests.docs import pages
from tests.docs.pages import DOCS, ROOT, rows, section

README = pages.README.read_text()
API = (DOCS / "api.md").read_text()
OPEN_INFERENCE = (DOCS / "open-inference.md").read_text()
SETTINGS = (DOCS / "settings.md").read_text()


def test_every_setting_stands_on_its_page_with_its_flag_and_default() -> None:
    row = rf"^\| `({PREFIX}\w+)` \| `(--[\w-]+)` \| `([^`]*)` \|"
    found = re.findall(row, SETTINGS, re.MULTILINE)
    assert {name: given for name, given, _ in found} == {
        PREFIX + name.upper(): flag(name) for name in Settings.model_fields
    }
    shown = {name: default for name, _, default in found}
    defaults = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        text = ",".join(default) if isinstance(default, tuple) else str(default)
        defaults[PREFIX + name.upper()] = text
    assert shown == defaults


def test_every_endpoint_stands_on_the_page_of_its_protocol() -> None:
    for every_version in create_app(Settings()).openapi()["paths"]:
        path = every_version.replace("/versions/{version}", "")
        page = OPEN_INFERENCE if path.startswith("/v2") else API
        assert f"`{path}`" in page or f" {path}`" in page, path


def test_every_parameter_and_every_member_of_an_answer_stands_in_the_api() -> None:
    request, answer = (API.partition(f"### {title}\n")[2] for title in ("Parameters", "The answer"))
    assert set(ClassifyParameters.model_fields) == first_words(request)
    assert set(ClassifyResponse.model_fields) == first_words(answer)


def first_words(text: str) -> set[str]:
    """The code words in the first column of the first table after here."""
    table = next(part for part in text.strip().split("\n\n") if part.startswith("|"))
    return {word for cells in rows(table) for word in re.findall(r"`(\w+)`", cells[0])}


def test_every_problem_code_stands_in_the_api_with_its_status() -> None:
    described = {
        (int(status), code)
        for status, codes, *_ in rows(section(API, "Errors"))[2:]
        for code in re.findall(r"`(\w+)`", codes)
    }
    assert described == {(status, kind.code) for kind, status in STATUS.items()} | {
        (500, "internal")
    }


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


def test_every_make_target_of_the_documentation_is_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets
    for page in pages.PAGES:
        named = re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
        assert set(named) <= targets, page


@pytest.mark.parametrize(
    "folder", ["rapid_core", "service", "tests", "benchmarks", "docs", ".ci", "docker", "deploy"]
)
def test_no_path_of_somebodys_machine(folder: str) -> None:
    for path in (ROOT / folder).rglob("*"):
        if path.suffix in {".py", ".md", ".toml", ".yml", ".sh", ""} and path.is_file():
            assert not re.search(r"(?<![\w.])/(home|root|Users)/\w", path.read_text()), path
