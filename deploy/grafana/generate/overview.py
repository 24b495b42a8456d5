"""The first look: is it up, is it fast, is it right?"""

from deploy.grafana.generate.parts import Board, Panel
from deploy.grafana.generate.queries import OF_ANSWERS, REPLICA, TIER, quantile, rate, share

REQUESTS = "rapid_requests_total"
SECONDS = "rapid_request_duration_seconds"
FAILED = rate(REQUESTS, f'{TIER}, code=~"5..", result!="refused"')
ERRORS = share(FAILED, rate(REQUESTS, f'{TIER}, code!="499"'))
REFUSED = rate("rapid_rejected_total", f'{REPLICA}, reason="overloaded"')
ANSWERED = rate(REQUESTS, f'{REPLICA}, code="200"')

NOW = (
    Panel(
        kind="number",
        title="Replicas ready",
        unit="percentunit",
        queries={
            "ready": f'sum(rapid_ready{{{REPLICA}}}) / count(up{{job=~".*rapid.*", {REPLICA}}})'
        },
        description="Share of the replicas that take requests. Red: not all of them do.",
        alert="RapidNoReplicaReady",
        width=4,
    ),
    Panel(
        kind="number",
        title="Requests",
        unit="reqps",
        queries={"requests": rate(REQUESTS, TIER)},
        description="Requests that were answered in a second, with success or without.",
        width=5,
    ),
    Panel(
        kind="number",
        title="Error ratio",
        unit="percentunit",
        queries={"errors": ERRORS},
        description="Share of the requests answered with 500, 503 or 504, without those 504 whose "
        "own deadline even an idle service could not keep. Requests whose client left (499) do not "
        "count at all. Red where the alert would fire if it stayed so.",
        alert="RapidErrorRatio",
        width=5,
    ),
    Panel(
        kind="number",
        title="99 % answered within",
        unit="s",
        queries={"p99": quantile(0.99, SECONDS, OF_ANSWERS)},
        description="From the arrival of a request to its answer; what was refused or failed does "
        "not count. Red above 1 s.",
        alert="RapidLatencyP99",
        width=5,
    ),
    Panel(
        kind="number",
        title="Saturation of the fullest replica",
        unit="percentunit",
        queries={"saturation": f"max(rapid_saturation_ratio{{{REPLICA}}})"},
        description="How close it is to refusing requests: the images or bytes inside as a share "
        "of what is allowed, or the time until all of them are computed as a share of the "
        "deadline, whichever is more. At 100 % requests get 429.",
        alert="RapidSaturated",
        width=5,
    ),
)

TRAFFIC = (
    Panel(
        kind="stack",
        title="Requests by status",
        unit="reqps",
        queries={"{{code}}": rate(REQUESTS, TIER, "code")},
        description="400 to 422: the client's mistake. 429: refused, there was too much. 499: the "
        "client left. 500, 503, 504: our fault, but for a deadline_ms that cannot be kept.",
    ),
    Panel(
        kind="lines",
        title="Latency",
        unit="s",
        queries={
            "50 %": quantile(0.5, SECONDS, OF_ANSWERS),
            "99 %": quantile(0.99, SECONDS, OF_ANSWERS),
        },
        description="So many of the answers came within this time; what was refused or failed does "
        "not count. Where the time goes is on the dashboard for latency.",
        alert="RapidLatencyP99",
    ),
    Panel(
        kind="lines",
        title="Errors and refused work",
        unit="percentunit",
        queries={"errors": ERRORS, "refused": share(REFUSED, f"({REFUSED} + {ANSWERED})")},
        description="Errors: as the number above. Refused: work that got 429 "
        "since there was too much; not split by model and tier. The line is the errors' limit; "
        "RapidShedding watches the refused work, from 5 %.",
        alert="RapidErrorRatio",
    ),
)

HEALTH = (
    Panel(
        kind="lines",
        title="Saturation",
        unit="percentunit",
        queries={"{{instance}}": f"rapid_saturation_ratio{{{REPLICA}}}"},
        description="How close each replica is to refusing requests. For long above 80 %, there "
        "is no room for a burst: add replicas, or let requests run a faster tier.",
        alert="RapidSaturated",
    ),
    Panel(
        kind="bars",
        title="Top-1 accuracy by tier",
        unit="percentunit",
        queries={
            "{{model}} {{tier}}": "min by (model, tier) "
            f'(rapid_probe_accuracy_ratio{{{TIER}, k="1"}})'
        },
        description="Share of the labelled probe pictures whose best answer was right in the last "
        "probe, on the worst replica. Against the baseline: on the dashboard for accuracy.",
    ),
    Panel(
        kind="table",
        title="Firing alerts",
        unit="short",
        queries={"": 'ALERTS{alertname=~"Rapid.*", alertstate="firing"}'},
        description="What to do about each is in docs/runbook.md, under its name.",
    ),
)

BOARD = Board(
    uid="rapid-overview",
    title="rapid-vit: overview",
    description=f"{__doc__} In the order of the rows.",
    rows={"Now": NOW, "Traffic": TRAFFIC, "Health": HEALTH},
)
