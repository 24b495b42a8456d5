"""The dashboards: written by their generator, read by Grafana's own types, fit for people."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from prometheus_client import CollectorRegistry

from service.telemetry.metrics import Metrics
from tests.deploy import dashboards, monitoring

with warnings.catch_warnings():
    # It would rather have the second schema, which older Grafanas do not read from files.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

ROOT = Path(__file__).parents[2]
BOARDS = dashboards.read()
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, board in BOARDS.items()
    for panel in dashboards.panels(board)
]
TITLES = {
    "rapid-overview": "rapid-vit: overview",
    "rapid-latency": "rapid-vit: latency",
    "rapid-batching": "rapid-vit: batching and queue",
    "rapid-accuracy": "rapid-vit: tiers and accuracy",
    "rapid-device": "rapid-vit: device",
}
UNITS = {"s", "percentunit", "reqps", "ops", "bytes", "short"}
GRID = 24


def metric_names() -> set[str]:
    """Of the service's own metrics, as they are written in expressions."""
    registry = CollectorRegistry()
    Metrics(registry)
    names = set()
    for family in registry.collect():
        if family.name.startswith("rapid_"):
            suffix = {"counter": "_total", "histogram": "_bucket"}.get(family.type, "")
            names.add(family.name + suffix)
    return names


def test_the_generator_writes_what_is_here(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.grafana.generate", "--folder", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT)
    written = {path.name: path.read_text() for path in tmp_path.glob("*")}
    assert written == {path.name: path.read_text() for path in dashboards.FOLDER.glob("*")}


@pytest.mark.parametrize("name", BOARDS)
def test_grafanas_own_types_read_it_and_lose_nothing(name: str) -> None:
    register_default_plugins()
    board = BOARDS[name]
    read = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    for link in read["links"]:
        assert link.pop("placement") == "inControlsMenu"  # all that the type can say
    assert read == board


def test_there_are_the_five() -> None:
    assert {name: board["title"] for name, board in BOARDS.items()} == TITLES
    for name, board in BOARDS.items():
        assert board["uid"] == name
        assert board["tags"] == ["rapid-vit"]
        (others,) = board["links"]
        assert (others["type"], others["tags"]) == ("dashboards", ["rapid-vit"])
        assert others["includeVars"]
        assert others["keepTime"]


@pytest.mark.parametrize("name", BOARDS)
def test_what_is_shown_can_be_chosen(name: str) -> None:
    variables = {entry["name"]: entry for entry in BOARDS[name]["templating"]["list"]}
    assert list(variables) == ["datasource", "instance", "model", "tier", "runbook"]
    for choice in ("instance", "model", "tier"):
        assert variables[choice]["includeAll"]
        assert variables[choice]["multi"]
        assert variables[choice]["allValue"] == ".*"
    assert (ROOT / variables["runbook"]["query"]).is_file()


@pytest.mark.parametrize("name", BOARDS)
def test_its_panels_have_their_places(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < GRID, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in BOARDS[name]["panels"]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_explains_itself(panel: dashboards.Document) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["description"].endswith(".")
    assert defaults["unit"] in UNITS
    assert defaults["thresholds"]["steps"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert target["legendFormat"] or panel["type"] == "table"


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_is_red_where_its_alert_fires(panel: dashboards.Document) -> None:
    alerts = monitoring.alerts()
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    for link in panel.get("links", []):
        name = link["title"].removeprefix("Runbook: ")
        assert link["url"] == f"${{runbook}}#{name.lower()}"
        assert f"\n## {name}\n" in runbook
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        for limit in [abs(step["value"]) for step in steps if step["value"] is not None]:
            assert re.search(rf"[<>-] {limit:g}\b", alerts[name]["expr"]) or (
                name == "RapidNoReplicaReady" and limit == 1
            )


def test_every_metric_is_on_a_panel_and_the_other_way_round() -> None:
    recorded = "\n".join(path.read_text() for path in monitoring.RULES)
    shown = "\n".join(query.expression for query in dashboards.queries())
    names = metric_names()
    assert {name for name in names if not re.search(rf"\b{name}\b", shown + recorded)} == set()
    histograms = {name.removesuffix("_bucket") for name in names if name.endswith("_bucket")}
    for name in re.findall(r"(?<!:)\brapid_\w+\b(?!:)", shown):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in names or base in histograms, name
