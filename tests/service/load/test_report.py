"""Warnings where the client itself may have made the figures."""

from typing import Any

import pytest

from service.load import report
from service.load.outcomes import NOT_SENT


@pytest.mark.parametrize(
    ("client", "p50_ms", "num_not_sent", "messages"),
    [
        ({}, 100.0, 0, []),
        ({"loop_late_ms": [5.0] * 100, "send_late_ms": [5.0] * 100}, 50.0, 0, []),
        ({"loop_late_ms": [0.0] * 99 + [90.0]}, 100.0, 0, []),
        ({"loop_late_ms": [0.0] * 98 + [6.0] * 2}, 100.0, 0, ["event loop woke up late, p99 6.0"]),
        ({"loop_late_ms": [2.0]}, 10.0, 0, ["(allowed: 1.0 ms)"]),
        ({"loop_late_ms": [2.0]}, None, 0, []),
        ({"send_late_ms": [7.0]}, None, 0, ["sent later than scheduled, p99 7.0 ms"]),
        ({"cpu_share": 0.8}, 100.0, 0, []),
        ({"cpu_share": 0.81}, 100.0, 0, ["81% of a core"]),
        ({}, 100.0, 3, ["3 of 9 requests were NOT SENT"]),
        ({"send_late_ms": [7.0], "cpu_share": 1.0}, 100.0, 1, ["sent later", "core", "NOT SENT"]),
    ],
)
def test_it_warns_when_the_client_is_the_bottleneck(
    client: dict[str, Any], p50_ms: float | None, num_not_sent: int, messages: list[str]
) -> None:
    totals = {
        "offered": 9,
        "latency_ms": {"p50": p50_ms},
        "outcomes": {NOT_SENT: num_not_sent} if num_not_sent else {},
    }
    idle: dict[str, Any] = {"loop_late_ms": [], "send_late_ms": [], "cpu_share": 0.1}
    found = report.warnings(**{**idle, **client}, totals=totals)
    assert len(found) == len(messages)
    assert all(message in warning for message, warning in zip(messages, found, strict=True))
