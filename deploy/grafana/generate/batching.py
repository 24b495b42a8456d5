"""How images become batches, what waits, and what is turned away."""

from deploy.grafana.generate.parts import Board, Panel
from deploy.grafana.generate.queries import (
    MODEL,
    REPLICA,
    TIER,
    buckets,
    mean,
    quantile,
    rate,
    share,
)

SIZE = "rapid_batch_size"
REFUSED = rate("rapid_rejected_total", f'{REPLICA}, reason="overloaded"')
ANSWERED = rate("rapid_requests_total", f'{REPLICA}, code="200"')

BATCHES = (
    Panel(
        kind="lines",
        title="Images in a batch on average",
        unit="short",
        queries={"{{model}} {{method}}": mean(SIZE, MODEL, "model, method")},
        description="Near 1: the device keeps up and nobody waits for company. Near "
        "RAPID_MAX_BATCH_SIZE: it is the bottleneck. A batch holds one model, method and tier "
        "only, so many tiers make small batches.",
    ),
    Panel(
        kind="heat",
        title="Batches by size",
        unit="short",
        queries={"{{le}}": buckets(SIZE, MODEL)},
        description="The darker, the more batches had so many images. Batches of probes and "
        "comparisons do not count.",
    ),
    Panel(
        kind="stack",
        title="Why batches start",
        unit="ops",
        queries={"{{reason}}": rate("rapid_batch_dispatch_total", REPLICA, "reason")},
        description="full: as large as allowed. idle: the device was free. wait: RAPID_MAX_WAIT_MS "
        "was over. deadline: later would be too late. drain: shutting down. spare: a probe or a "
        "comparison, for which no client waits.",
    ),
)

QUEUE = (
    Panel(
        kind="lines",
        title="Images that wait",
        unit="short",
        queries={"{{instance}}": f"rapid_queue_images{{{REPLICA}}}"},
        description="Decoded, and waiting for their batch. Images wait and no batch starts: the "
        "device hangs.",
    ),
    Panel(
        kind="lines",
        title="Time in the queue",
        unit="s",
        queries={
            "50 %": quantile(0.5, "rapid_queue_duration_seconds", TIER),
            "99 %": quantile(0.99, "rapid_queue_duration_seconds", TIER),
        },
        description="From the decoded image to the start of its batch; so many waited less.",
    ),
    Panel(
        kind="lines",
        title="Saturation",
        unit="percentunit",
        queries={"{{instance}}": f"rapid_saturation_ratio{{{REPLICA}}}"},
        description="How close each replica is to refusing requests.",
        alert="RapidSaturated",
    ),
    Panel(
        kind="lines",
        title="Requests inside",
        unit="short",
        queries={"{{instance}}": f"rapid_inflight_requests{{{REPLICA}}}"},
        description="Being received, decoded, waiting or computed.",
        width=12,
    ),
    Panel(
        kind="lines",
        title="Brownout level",
        unit="short",
        queries={"{{instance}}": f"rapid_brownout_level{{{REPLICA}}}"},
        description="By so many tiers the requests are lowered that allow it with `min_tier`. "
        "Always 0 unless RAPID_BROWNOUT=on.",
        width=12,
    ),
)

TURNED_AWAY = (
    Panel(
        kind="lines",
        title="Work refused for there was too much",
        unit="percentunit",
        queries={"refused": share(REFUSED, f"({REFUSED} + {ANSWERED})")},
        description="Share of all work that got 429 with the code `overloaded`.",
        alert="RapidShedding",
    ),
    Panel(
        kind="stack",
        title="Refused by reason",
        unit="ops",
        queries={"{{reason}}": rate("rapid_rejected_total", REPLICA, "reason")},
        description="Images and requests, by the `code` of the problem that the client got.",
    ),
    Panel(
        kind="stack",
        title="Clients that left",
        unit="reqps",
        queries={"{{phase}}": rate("rapid_cancelled_total", REPLICA, "phase")},
        description="By how far their request was: `reading`, `queued` or in a `batch`. Many in "
        "`queued`: they have less patience than the queue is long.",
    ),
)

BOARD = Board(
    uid="rapid-batching",
    title="rapid-vit: batching and queue",
    description=__doc__,
    rows={"Batches": BATCHES, "Queue": QUEUE, "Turned away": TURNED_AWAY},
)
