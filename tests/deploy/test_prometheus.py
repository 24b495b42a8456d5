"""Alerts and panels in the real Prometheus, which scrapes the real service.

Three services run at a time: one that is well, one whose model is damaged, and one whose device
hangs. The rules are those of the repository, with their own thresholds and durations.
"""

import asyncio
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest
import torch
import yaml  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.accuracy import probe
from service.accuracy.counts import Measured
from service.accuracy.probe_set import BaselineTier, ProbeBaseline
from service.backends.contract import Variant
from service.backends.placement import CPU
from service.images import decode
from service.models import catalog
from service.tiers import TIERS
from tests.conftest import Server
from tests.deploy import dashboards, monitoring
from tests.deploy.monitoring import Prometheus, promtool
from tests.service.api.test_disconnects import JPEG, HeldServer

ROOT = Path(__file__).parents[2]
RULE_TESTS = sorted((monitoring.FOLDER / "tests").glob("*.yml"))
ALERTS = monitoring.alerts()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()

PROBE_INTERVAL_S = 15
RANGE_S = 60
"""of rates: all that has happened"""
LONGEST_S = 60
"""that anything here takes"""
NEARLY = 0.05
"""by which a rate may be over 1, as Prometheus extrapolates to the ends of its range"""


# the files


def test_the_rules_are_valid() -> None:
    for path in monitoring.RULES:
        promtool("check", "rules", path)
    promtool("check", "config", monitoring.FOLDER / "prometheus.yml")


@pytest.mark.slow
def test_every_alert_fires_and_stays_silent_as_it_should() -> None:
    promtool("test", "rules", *RULE_TESTS)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = {
        (case["alertname"], bool(case["exp_alerts"]))
        for path in RULE_TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test["alert_rule_test"]
    }
    assert cases == {(name, fires) for name in ALERTS for fires in (True, False)}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_is_wrong_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert name.startswith("Rapid")
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    operations = (ROOT / "docs" / "operations.md").read_text()
    assert f"[{name}](runbook.md#{name.lower()})" in operations


@pytest.mark.parametrize("name", ALERTS)
def test_the_runbook_has_an_entry(name: str) -> None:
    _, _, rest = RUNBOOK.partition(f"\n## {name}\n")
    entry, _, _ = rest.partition("\n## ")
    for part in ("**Meaning.**", "**Causes.**", "**Look at.**", "**Do.**"):
        assert part in entry, part
    assert ALERTS[name]["labels"]["severity"] in entry


@pytest.mark.parametrize("name", ["", *ALERTS])
def test_the_runbook_reads_the_log_of_kubernetes_and_of_compose(name: str) -> None:
    """Both commands ask for the same lines of the same time; without a name: at the beginning."""
    rest = RUNBOOK.partition(f"\n## {name}\n")[2] if name else RUNBOOK
    entry = rest.partition("\n## ")[0]
    asked = {}
    for start in ("kubectl logs ", "docker compose -f docker/compose.yml logs "):
        (command,) = re.findall(rf"^{start}(.*)$", entry, re.MULTILINE)
        arguments, _, filters = command.partition(" | ")
        asked[start] = re.findall(r"--since=\S+", arguments), filters
        assert "rapid" in arguments
    first, second = asked.values()
    assert first == second
    assert all(first)


def test_the_runbook_has_no_entry_of_an_alert_that_is_gone() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == list(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_both_sides_of_an_alerts_comparisons_are_found(name: str) -> None:
    """What `compared` relies on."""
    expression = ALERTS[name]["expr"]
    without_labels = re.sub(r"\{[^}]*\}", "", expression)
    operators = re.findall(r"[<>]=?|[=!]=", without_labels)
    assert operators
    assert monitoring.compared(expression).count(" bool") == len(operators)


# the real thing


class Running(NamedTuple):
    """What runs, and what Prometheus calls it."""

    prometheus: Prometheus
    well: Server
    held: HeldServer
    instances: dict[str, str]


def damage(model: Path, folder: Path) -> Path:
    """A copy whose head has its rows permuted: each class answers in the name of the next."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    for name in ("head.weight", "head.bias"):
        weights[name] = weights[name].roll(1, dims=0).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def label(pictures: Sequence[Path], model: Path, folder: Path) -> Path:
    """Pictures to probe with, whose labels are what this model answers, and how right it is."""
    served = catalog.load(str(model), CPU)
    spec = decode.InputSpec(served.transform, served.input_spec.resize_side)
    pixels = [decode.decode(path.read_bytes(), spec) for path in pictures]

    async def infer(variant: Variant, some: Sequence[Tensor]) -> list[Tensor]:
        with torch.inference_mode():
            return [variant.module(one[None])[0].float() for one in some]

    unreduced = asyncio.run(infer(served.variant("rapid", 0, "exact"), pixels))
    labels = [int(row.argmax()) for row in unreduced]
    measured = {tier: Measured() for tier in TIERS}
    pairs = list(zip(pixels, labels, strict=True))
    asyncio.run(probe.measure(served, pairs, measured, infer))
    folder.mkdir()
    rows = [f"{path.name},{index}" for path, index in zip(pictures, labels, strict=True)]
    (folder / "labels.csv").write_text("\n".join(["file,index", *rows]))
    for path in pictures:
        shutil.copy(path, folder)
    tiers = {
        tier: BaselineTier(top1=counts.top1.value, top5=counts.top5.value)
        for tier, counts in measured.items()
    }
    baseline = ProbeBaseline(
        architecture=served.architecture, num_pictures=len(pictures), tiers=tiers
    )
    (folder / "baseline.json").write_text(baseline.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def running(
    tiny_model: Path, examples: list[Path], owl: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    monitoring.program("prometheus")
    folder = tmp_path_factory.mktemp("monitored")
    labelled = label(examples[:4], tiny_model, folder / "labelled")
    damaged_model = damage(tiny_model, folder / "damaged")
    with ExitStack() as stack:
        servers = {}
        for name, model in (("well", tiny_model), ("damaged", damaged_model)):
            servers[name] = Server(
                RAPID_MODELS=f"{name}={model}",
                RAPID_PROBE_DATA=f"{name}={labelled}",
                RAPID_PROBE_INTERVAL_S=str(PROBE_INTERVAL_S),
                RAPID_SHADOW_FRACTION="1",
                RAPID_SPARE_SHARE="1",
                RAPID_DRAIN_DELAY_S="0",
                RAPID_NUM_THREADS="1",
                RAPID_LOG_LEVEL="warning",
            )
            stack.callback(servers[name].stop)
        (folder / "held").mkdir()
        servers["held"] = held = HeldServer(folder / "held", tiny_model)
        stack.callback(held.stop)
        for server in servers.values():
            server.wait_until_ready()
        instances = {name: urlsplit(server.url).netloc for name, server in servers.items()}
        prometheus = Prometheus(folder, list(instances.values()))
        stack.callback(prometheus.stop)
        held.hold()
        pool = stack.enter_context(ThreadPoolExecutor(1))
        stack.callback(held.release)
        pool.submit(held.post, owl)
        prometheus.wait_until_scraping()
        yield Running(prometheus, servers["well"], held, instances)


def send_some_of_everything(url: str, picture: bytes) -> int:
    """One request of each kind; returns how many."""
    wanted: list[dict[str, str]] = [{"tier": tier} for tier in TIERS]
    wanted += [{"r": "0"}, {"r": "4"}, {}, {"max_latency_ms": "10000"}, {"max_latency_ms": "1"}]
    wanted += [{"tier": "slow"}, {"model": "other"}, {"top_k": "99"}, {"deadline_ms": "1"}]
    bodies = [(parameters, picture) for parameters in wanted]
    bodies.append(({"tier": "fast"}, b"no picture"))
    with httpx.Client(base_url=url, headers=JPEG, timeout=LONGEST_S) as client:
        for parameters, body in bodies:
            client.post("/v1/classify", params=parameters, content=body)
    return len(bodies)


@pytest.fixture(scope="module")
def busy(running: Running, owl: bytes) -> Running:
    """The same, when Prometheus has seen traffic of every kind grow."""
    prometheus = running.prometheus
    seen = f'sum(rapid_requests_total{{instance="{running.instances["well"]}"}})'
    num_sent = 0
    for _ in range(2):
        num_sent += send_some_of_everything(running.well.url, owl)
        prometheus.eventually(has(prometheus, seen, float(num_sent)))
    # What is recorded comes last.
    for name in (
        "model:rapid_probe_age:seconds",
        "model:rapid_request_duration_seconds:p99_5m",
        "tier:rapid_shadow_agreement:ratio_increase6h",
    ):
        of_well = f'{name}{{model="well"}}'
        prometheus.eventually(partial(prometheus.query, of_well))
    return running


def has(prometheus: Prometheus, expression: str, value: float) -> Callable[[], bool]:
    return lambda: [series.value for series in prometheus.query(expression)] == [value]


def check_plausible(query: dashboards.Query, value: float) -> None:
    assert math.isfinite(value), query
    if query.unit == "percentunit":
        lowest = -1 if "baseline" in query.expression else 0
        assert lowest <= value <= 1 + NEARLY, query
    else:
        assert value >= 0, query
    if query.unit == "s":
        assert value <= LONGEST_S, query
    if query.unit == "bytes":
        assert value > 2**20, query


@pytest.mark.e2e
@pytest.mark.slow
def test_a_damaged_model_is_noticed(running: Running) -> None:
    fires = ("RapidProbeAccuracyDrop", running.instances["damaged"])
    running.prometheus.eventually(lambda: fires in running.prometheus.firing())


@pytest.mark.e2e
@pytest.mark.slow
def test_a_device_that_hangs_is_noticed_even_if_it_is_restarted(running: Running) -> None:
    prometheus, instance = running.prometheus, running.instances["held"]
    fires = ("RapidDeviceLoopStuck", instance)
    prometheus.eventually(lambda: fires in prometheus.firing())
    running.held.release()
    batch = f'rapid_running_batch_seconds{{instance="{instance}"}}'
    prometheus.eventually(has(prometheus, batch, 0.0))
    assert fires in prometheus.firing()


@pytest.mark.e2e
@pytest.mark.slow
def test_every_panel_shows_something_plausible(busy: Running) -> None:
    for query in dashboards.queries():
        expression = dashboards.filled_in(query.expression, RANGE_S)
        found = busy.prometheus.query(expression)
        # All services here are told their precision, so there was no trial.
        assert bool(found) != ("rapid_precision_trial" in expression), query
        for series in found:
            check_plausible(query, series.value)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_has_something_to_compare(busy: Running, name: str) -> None:
    found = busy.prometheus.query(monitoring.compared(ALERTS[name]["expr"]))
    assert {series.value for series in found} <= {0.0, 1.0}
    well = {"instance": busy.instances["well"], "model": "well"}
    assert [
        series
        for series in found
        if all(series.labels.get(label, value) == value for label, value in well.items())
    ], found


@pytest.mark.e2e
@pytest.mark.slow
def test_every_rule_is_healthy_and_no_other_alert_fires(busy: Running) -> None:
    prometheus = busy.prometheus
    prometheus.eventually(lambda: all(rule["health"] == "ok" for rule in prometheus.rules()))
    recorded = {rule["name"] for rule in prometheus.rules() if rule["type"] == "recording"}
    for name in recorded:
        prometheus.eventually(partial(prometheus.query, name))
    assert {rule["name"] for rule in prometheus.rules()} == recorded | set(ALERTS)
    assert prometheus.firing() == {
        ("RapidProbeAccuracyDrop", busy.instances["damaged"]),
        ("RapidDeviceLoopStuck", busy.instances["held"]),
    }, json.dumps(prometheus.rules())
