"""The report, ready for JSON, with warnings where the client itself may have distorted it."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from service.load import environment, figures
from service.load.address import is_loopback
from service.load.client import Client
from service.load.figures import Window, percentile
from service.load.outcomes import NOT_SENT
from service.load.plan import Plan

MAX_LATE_MS = 5.0
MAX_LATE_SHARE = 0.1
"""as a share of the median latency. There is a warning if the p99 of the client's own lateness is
above this or above `MAX_LATE_MS`."""
MAX_CPU_SHARE = 0.8


class ClientLoad(NamedTuple):
    """How late and how busy the client itself was in the measured time."""

    late_ms: Sequence[float]
    """lateness of each wake-up of its event loop"""
    cpu_share: float
    """CPU time as a share of one core"""


def build(
    plan: Plan, model: str, client: Client, busy: ClientLoad, stopped_s: float | None
) -> dict[str, Any]:
    """The report; `stopped_s` is when Ctrl-C ended the load, in seconds, or None."""
    window = measured(plan, client, stopped_s)
    names = [entry.name for entry in plan.mix]
    totals = figures.figures(client.outcomes, window, plan.deadline_ms)
    send_late_ms = client.send_late_ms if plan.loop.rate else []
    found = warnings(
        loop_late_ms=busy.late_ms,
        send_late_ms=send_late_ms,
        cpu_share=busy.cpu_share,
        totals=totals,
    )
    if stopped_s is not None:
        found.append(f"stopped by Ctrl-C; {client.num_left_out} requests in flight left out")
    return {
        "settings": plan.settings(),
        "model": model,
        "measured_s": round(window.end_s - window.start_s, 3),
        "all": totals,
        "entries": figures.by_entry(client.outcomes, names, window, plan.deadline_ms),
        "samples": client.samples,
        "client": {
            "loop_late_ms": figures.spread(busy.late_ms),
            "send_late_ms": figures.spread(send_late_ms),
            "cpu_share": round(busy.cpu_share, 3),
            "num_cores_shared_with_service": _num_shared_cores(plan),
        },
        "warnings": found,
        "environment": environment.describe(("aiohttp",)),
    }


def measured(plan: Plan, client: Client, stopped_s: float | None) -> Window:
    """The measured time: the planned one, unless Ctrl-C or the last request ended it earlier."""
    loop = plan.loop
    end_s = loop.end_s
    if stopped_s is not None:
        end_s = min(end_s, stopped_s)
    elif client.num_counted == loop.max_requests:
        last_s = [item.due_s if loop.rate else item.done_s for item in client.outcomes]
        end_s = min(end_s, max(last_s))
    return Window(loop.warmup_s, max(loop.warmup_s, end_s))


def _num_shared_cores(plan: Plan) -> int | None:
    """Cores of this machine if the service runs here as well, else None."""
    return os.cpu_count() if is_loopback(plan.url.host or "") else None


def warnings(
    *,
    loop_late_ms: Sequence[float],
    send_late_ms: Sequence[float],
    cpu_share: float,
    totals: dict[str, Any],
) -> list[str]:
    """Warnings that the client itself, not the service, may have determined the figures.

    Args:
        loop_late_ms: lateness of each wake-up of the client's event loop.
        send_late_ms: lateness of each request after its scheduled moment; open loop only.
        cpu_share: CPU time of the client's process, as a share of one core.
        totals: the figures of all requests.
    """
    median_ms = totals["latency_ms"]["p50"]
    allowed_ms = MAX_LATE_MS if median_ms is None else min(MAX_LATE_MS, MAX_LATE_SHARE * median_ms)
    found = []
    for values, what in (
        (loop_late_ms, "the client's event loop woke up late"),
        (send_late_ms, "requests were sent later than scheduled"),
    ):
        late_ms = percentile(sorted(values), 990) if values else 0.0
        if late_ms > allowed_ms:
            found.append(
                f"{what}, p99 {late_ms:.1f} ms (allowed: {allowed_ms:.1f} ms): the latencies "
                "contain the client's own delay"
            )
    if cpu_share > MAX_CPU_SHARE:
        found.append(
            f"the client took {cpu_share:.0%} of a core: it may be what limits the throughput"
        )
    num_not_sent = totals["outcomes"].get(NOT_SENT, 0)
    if num_not_sent:
        found.append(
            f"{num_not_sent} of {totals['offered']} requests were NOT SENT: too many were "
            "outstanding, or the client could not keep up; they count as offered and not answered"
        )
    return found
