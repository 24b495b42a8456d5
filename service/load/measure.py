"""A whole load: check the service, send requests, watch the client itself, report."""

import asyncio
import signal
import time
from collections.abc import Callable
from itertools import takewhile
from typing import Any, NamedTuple

from service.load import loops, report
from service.load.check import check_service
from service.load.client import Client, open_session
from service.load.figures import percentile
from service.load.outcomes import OK, SHED, read_answer
from service.load.plan import Loop, Plan

PATIENCE_S = 5.0
"""seconds after the deadline for which the client still waits for an answer."""
TICK_S = 0.010
TIMER_S = 0.001
"""asyncio's timers round up to whole milliseconds; any delay beyond this is lateness."""
SHOW_EVERY_S = 0.25
RECENT_S = 5.0
"""seconds before now that the numbers shown during the load are about"""


class Live(NamedTuple):
    """Numbers while the load runs. Rates and latencies are of the last `RECENT_S` seconds."""

    now_s: float
    end_s: float
    ok_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    num_refused: int
    """requests answered 429 since the start"""
    num_others: int
    """requests neither answered 200 nor refused since the start"""


Show = Callable[[Live], object]


class Watch:
    """How punctual and how busy the client itself is in the measured time."""

    def __init__(self) -> None:
        self.late_ms: list[float] = []
        self.cpu_share = 0.0

    async def run(self, client: Client, loop: Loop) -> None:
        """Take a measurement every 10 ms."""
        await asyncio.sleep(loop.warmup_s - client.now())
        cpu_s, start_s = time.process_time(), client.now()
        while client.now() < loop.end_s:
            before_s = client.now()
            await asyncio.sleep(TICK_S)
            late_s = client.now() - before_s - TICK_S - TIMER_S
            self.late_ms.append(1000 * max(0.0, late_s))
            self.cpu_share = (time.process_time() - cpu_s) / (client.now() - start_s)


async def measure(plan: Plan, show: Show = lambda _: None) -> dict[str, Any]:
    """Run the load. After Ctrl-C, the load ends and its report is still made.

    Args:
        plan: what to send, and where.
        show: called with the live numbers four times a second.

    Returns:
        The report, ready for JSON.

    Raises:
        UnfitServiceError: no service can answer this load; none was sent.
    """
    async with open_session(plan.deadline_ms / 1000 + PATIENCE_S) as session:
        model = await check_service(session, plan.url, plan.mix)
        client = Client(session, plan.url / "v1/classify", plan.loop, read_answer)
        watch = Watch()
        load = asyncio.create_task(loops.run(client, plan.requests()))
        others = [
            asyncio.create_task(watch.run(client, plan.loop)),
            asyncio.create_task(_show(client, show)),
        ]
        stopped_s = await _until_done_or_ctrl_c(load, others, client)
    busy = report.ClientLoad(watch.late_ms, watch.cpu_share)
    return report.build(plan, model, client, busy, stopped_s)


async def _until_done_or_ctrl_c(
    load: asyncio.Task[None], others: list[asyncio.Task[None]], client: Client
) -> float | None:
    """Wait for the load and end the other tasks.

    Returns:
        When Ctrl-C ended the load, in seconds since its start; None if nothing did.
    """
    events = asyncio.get_running_loop()
    events.add_signal_handler(signal.SIGINT, load.cancel)
    try:
        await asyncio.wait([load])
        stopped_s = client.now()
    finally:
        events.remove_signal_handler(signal.SIGINT)
        for task in (load, *others):
            task.cancel()
        ends = await asyncio.gather(load, *others, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end
    return stopped_s if load.cancelled() else None


async def _show(client: Client, show: Show) -> None:
    while True:
        show(live(client))
        await asyncio.sleep(SHOW_EVERY_S)


def live(client: Client) -> Live:
    """The numbers of this moment."""
    now_s = client.now()
    since_s = max(0.0, now_s - RECENT_S)
    recent = takewhile(lambda outcome: outcome.done_s >= since_s, reversed(client.outcomes))
    latencies_ms = sorted(outcome.latency_ms for outcome in recent if outcome.kind == OK)
    num_refused = client.tally[SHED]
    return Live(
        min(now_s, client.loop.end_s),
        client.loop.end_s,
        len(latencies_ms) / max(now_s - since_s, 1e-9),
        percentile(latencies_ms, 500) if latencies_ms else None,
        percentile(latencies_ms, 990) if latencies_ms else None,
        num_refused,
        client.tally.total() - client.tally[OK] - num_refused,
    )
