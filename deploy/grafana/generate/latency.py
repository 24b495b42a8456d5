"""Where the time of a request goes."""

from deploy.grafana.generate.parts import Board, Panel
from deploy.grafana.generate.queries import (
    MODEL,
    OF_ANSWERS,
    TIER,
    buckets,
    mean,
    quantile,
    rate,
    share,
)

REQUEST = "rapid_request_duration_seconds"
DECODE = "rapid_decode_duration_seconds"
QUEUE = "rapid_queue_duration_seconds"
INFERENCE = "rapid_inference_duration_seconds"

STAGES = (
    Panel(
        kind="stack",
        title="An image's time on average",
        unit="s",
        queries={
            "decode": mean(DECODE, MODEL),
            "queue": mean(QUEUE, TIER),
            "inference": mean(INFERENCE, TIER),
        },
        description="Decode: bytes to pixels, with the wait for a thread. Queue: until its batch "
        "starts. Inference: its batch. What of the request's time is missing here is its upload. "
        "Decoding is not split by tier.",
        width=12,
    ),
    Panel(
        kind="lines",
        title="Each stage, 99 % within",
        unit="s",
        queries={
            "decode": quantile(0.99, DECODE, MODEL),
            "queue": quantile(0.99, QUEUE, TIER),
            "inference": quantile(0.99, INFERENCE, TIER),
            "whole request": quantile(0.99, REQUEST, OF_ANSWERS),
        },
        description="Queue grows: too much traffic for the device. Inference grows: larger "
        "batches, more exact tiers or a slower device. Decode grows: large pictures, or too few "
        "threads. Only the whole grows: slow uploads. The line is the limit for the whole.",
        alert="RapidLatencyP99",
        width=12,
    ),
)

BY_TIER = (
    Panel(
        kind="lines",
        title="Request, 50 % within",
        unit="s",
        queries={"{{model}} {{tier}}": quantile(0.5, REQUEST, OF_ANSWERS, "model, tier")},
        description="Half of the answers came within this time. `custom` named r itself. Requests "
        "that were refused or failed do not count.",
    ),
    Panel(
        kind="lines",
        title="Request, 99 % within",
        unit="s",
        queries={"{{model}} {{tier}}": quantile(0.99, REQUEST, OF_ANSWERS, "model, tier")},
        description="99 % of the answers came within this time. The alert watches all "
        "tiers of a model together.",
        alert="RapidLatencyP99",
    ),
    Panel(
        kind="lines",
        title="Inference on average",
        unit="s",
        queries={"{{model}} {{tier}}": mean(INFERENCE, TIER, "model, tier")},
        description="How long the batch took that an image was in. Faster tiers take less at the "
        "same batch size.",
    ),
)

DISTRIBUTION = (
    Panel(
        kind="heat",
        title="Requests by duration",
        unit="s",
        queries={"{{le}}": buckets(REQUEST, OF_ANSWERS)},
        description="The darker, the more answers took so long. Two bands are two kinds of "
        "requests: other tiers, other sizes, or a queue that comes and goes.",
        width=16,
    ),
    Panel(
        kind="lines",
        title="Answered within 1 s",
        unit="percentunit",
        queries={
            "{{model}}": share(
                rate(f"{REQUEST}_bucket", f'{OF_ANSWERS}, le="1.0"', "model"),
                rate(f"{REQUEST}_count", OF_ANSWERS, "model"),
            )
        },
        description="The objective is 99 %.",
    ),
)

BOARD = Board(
    uid="rapid-latency",
    title="rapid-vit: latency",
    description=__doc__,
    rows={"Stages": STAGES, "By tier": BY_TIER, "Distribution": DISTRIBUTION},
)
