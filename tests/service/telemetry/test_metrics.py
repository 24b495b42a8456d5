"""What Prometheus reads: always there, never going back, and with labels from closed lists."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service.api.problems import STATUS
from service.models.served import METHODS
from service.pipeline.request import REASONS
from service.scheduling.policy import DISPATCH_REASONS
from service.telemetry.events import PHASES, RESULTS
from service.telemetry.metrics import SECONDS, Metrics
from service.tiers import TIERS
from tests.conftest import Server
from tests.waiting import PATIENCE_S

NUM_SCRAPES = 50
LABELS = {
    "model": {"everyday-vit-s14", "unknown"},
    "tier": {*TIERS, "custom", "unknown"},
    "method": set(METHODS),
    "code": {"200", "499", *map(str, STATUS.values())},
    "phase": set(PHASES),
    "result": set(RESULTS),
    "kind": {"kept", "removed", "used", "total"},
    "work": {"clients", "spare"},
    "k": {"1", "5"},
    "reason": {*DISPATCH_REASONS, *REASONS, *(error.code for error in STATUS)},
}
FREE = {"version", "torch", "timm", "device", "le"}


@pytest.mark.e2e
@pytest.mark.slow
def test_counters_never_go_back_while_work_comes_in(server: Server, owl: bytes) -> None:
    requests = [
        *({"params": {"tier": tier}, "content": owl} for tier in TIERS),
        {"params": {"r": "7", "method": "tome"}, "content": owl},
        {"params": {"r": "9999"}, "content": owl},
        {"params": {"model": "no/such\nmodel"}, "content": owl},
        {"params": {"max_latency_ms": "200", "min_tier": "fast"}, "content": owl},
        {"content": b"no picture"},
        {"params": {"deadline_ms": "1"}, "content": owl},
    ]
    with (
        httpx.Client(base_url=server.url, timeout=PATIENCE_S) as http,
        ThreadPoolExecutor(4) as clients,
    ):
        posts = [
            clients.submit(http.post, "/v1/classify", **requests[i % len(requests)])
            for i in range(8 * len(requests))
        ]
        last: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for _ in range(NUM_SCRAPES):
            scrape = http.get("/metrics")
            assert scrape.status_code == 200
            seen = {}
            for family in text_string_to_metric_families(scrape.text):
                if family.type in ("counter", "histogram"):
                    for sample in family.samples:
                        seen[sample.name, frozenset(sample.labels.items())] = sample.value
            for key, value in last.items():
                assert seen[key] >= value, key
            last = seen
        statuses = {post.result().status_code for post in posts}
    assert statuses >= {200, 400, 404, 422}
    for name, labels in last:
        if name.startswith("rapid_"):
            for label, value in labels:
                assert label in FREE or value in LABELS[label], (name, label, value)


def test_seconds_go_from_half_a_millisecond_to_half_a_minute() -> None:
    assert (SECONDS[0], SECONDS[-1]) == (0.0005, 30)
    steps = [high / low for low, high in pairwise(SECONDS)]
    assert all(1.8 < step < 2.2 for step in steps)


def test_two_services_in_one_process_do_not_share_counts() -> None:
    first, second = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    first.rejected.labels("overloaded").inc()
    assert b'reason="overloaded"' in first.render()
    assert b'reason="overloaded"' not in second.render()
