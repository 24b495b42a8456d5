"""What `benchmarks.load` says of a run: outcomes -> figures, warnings and a text table.

Shares and percentiles follow the requests that were due in the measured time to their end. Rates
count what happened inside the measured time, whenever it was asked for: answers that come after
its end would make a service look faster than it is.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

OK = "ok"
SHED = "shed"
NOT_SENT = "not sent"
KINDS = {200: OK, 429: SHED, 503: "unready", 504: "deadline"}
"""What a status is called; any other is `status N`, a broken exchange `error NAME`."""

PERMILLES = {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999}
MAX_LATE_MS = 5.0
MAX_LATE_SHARE = 0.1
"""of the median latency; the p99 of the client's own lateness may be neither above it nor above
`MAX_LATE_MS`."""
MAX_CPU_SHARE = 0.8


class Answer(NamedTuple):
    """What a 200 said."""

    tier: str | None
    """None where the request named r itself."""
    batch_size: int
    queue_ms: float
    inference_ms: float
    reason: str | None
    """why the service chose this tier; None where it does not say."""


class Outcome(NamedTuple):
    """What became of one request; seconds since the start of the load."""

    entry: str
    """as it stands in the mix: `balanced`, `r:14`, `budget:150`."""
    due_s: float
    """open loop: when it was scheduled, however late it was sent; closed loop: when it was sent."""
    done_s: float
    kind: str
    answer: Answer | None = None

    @property
    def latency_ms(self) -> float:
        """From the moment it was due."""
        return 1000 * (self.done_s - self.due_s)


class Window(NamedTuple):
    """The measured time; seconds since the start of the load."""

    start_s: float
    end_s: float

    def holds(self, moment_s: float) -> bool:
        """Whether a moment lies inside."""
        return self.start_s <= moment_s <= self.end_s


def percentile(ordered: Sequence[float], permille: int) -> float:
    """Nearest rank: the smallest value that at least this share of all values does not exceed."""
    return ordered[max(0, -(-permille * len(ordered) // 1000) - 1)]


def spread(values: Iterable[float]) -> dict[str, float | None]:
    """The percentiles and the maximum.

    A percentile is None unless one value lies above its rank (p99.9 needs 1000 values): it would
    be the maximum under another name.
    """
    ordered = sorted(values)
    known: dict[str, float | None] = {
        name: round(percentile(ordered, permille), 3)
        if len(ordered) * (1000 - permille) >= 1000
        else None
        for name, permille in PERMILLES.items()
    }
    return {**known, "max": round(ordered[-1], 3) if ordered else None}


def figures(outcomes: Sequence[Outcome], window: Window, deadline_ms: float) -> dict[str, Any]:
    """All figures of these requests; those due outside the window count for nothing but rates.

    `goodput` is the share of the offered requests that were answered 200 within the deadline.
    """
    seconds = max(window.end_s - window.start_s, 1e-9)
    offered = [outcome for outcome in outcomes if window.holds(outcome.due_s)]
    answered = [outcome for outcome in offered if outcome.kind == OK]
    shed = [outcome for outcome in offered if outcome.kind == SHED]
    arrived = [item for item in outcomes if item.kind == OK and window.holds(item.done_s)]
    num_good = sum(outcome.latency_ms <= deadline_ms for outcome in answered)
    num_good_arrived = sum(outcome.latency_ms <= deadline_ms for outcome in arrived)
    answers = [outcome.answer for outcome in answered if outcome.answer]
    return {
        "offered": len(offered),
        "offered_per_s": round(len(offered) / seconds, 3),
        "outcomes": tally(outcome.kind for outcome in offered),
        "ok_per_s": round(len(arrived) / seconds, 3),
        "good": num_good,
        "goodput": share(num_good, len(offered)),
        "goodput_per_s": round(num_good_arrived / seconds, 3),
        "shed_ratio": share(len(shed), len(offered)),
        "latency_ms": spread(outcome.latency_ms for outcome in answered),
        "shed_latency_ms": spread(outcome.latency_ms for outcome in shed),
        "mean_batch_size": mean([answer.batch_size for answer in answers]),
        "mean_queue_ms": mean([answer.queue_ms for answer in answers]),
        "mean_inference_ms": mean([answer.inference_ms for answer in answers]),
        "answered_by": tally(answer.tier or "custom" for answer in answers),
        "reasons": tally(answer.reason for answer in answers if answer.reason),
    }


def by_entry(
    outcomes: Sequence[Outcome], names: Iterable[str], window: Window, deadline_ms: float
) -> dict[str, dict[str, Any]]:
    """The figures of each entry of the mix."""
    return {
        name: figures([item for item in outcomes if item.entry == name], window, deadline_ms)
        for name in names
    }


def tally(words: Iterable[str]) -> dict[str, int]:
    """How often each occurs, the most frequent first."""
    return dict(Counter(words).most_common())


def share(part: int, whole: int) -> float | None:
    """A ratio; None of nothing."""
    return round(part / whole, 5) if whole else None


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean; None of nothing. For batch sizes: as the images in them see it."""
    return round(sum(values) / len(values), 3) if values else None


def warnings(
    *,
    loop_late_ms: Sequence[float],
    send_late_ms: Sequence[float],
    cpu_share: float,
    totals: dict[str, Any],
) -> list[str]:
    """Where the client itself, not the service, may have made the figures.

    Args:
        loop_late_ms: how much too late the client's event loop woke up, time and again.
        send_late_ms: how long after its scheduled moment each request left; open loop only.
        cpu_share: of one core, that the client's process took.
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


def text(report: dict[str, Any]) -> str:
    """The report for people."""
    totals, settings = report["all"], report["settings"]
    outcomes = ", ".join(f"{kind} {count}" for kind, count in totals["outcomes"].items())
    lines = [
        f"{load_in_words(settings)}; {report['measured_s']:.1f} s measured, "
        f"model {report['model']}",
        f"offered   {totals['offered_per_s']:.1f}/s: {totals['offered']} requests ({outcomes})",
        f"answered  {totals['ok_per_s']:.1f}/s",
        f"goodput   {totals['goodput_per_s']:.1f}/s: {percent(totals['goodput'])} of the offered "
        f"requests were answered within {settings['deadline_ms']:g} ms",
        f"shed      {percent(totals['shed_ratio'])}"
        + refused_in_words(totals["shed_latency_ms"], totals["outcomes"].get(SHED, 0)),
        f"client    {client_in_words(report['client'])}",
        "",
        *table([HEADER, *(row(name, item) for name, item in each_and_all(report))]),
        "p50 to max: ms from due to answered 200, nearest rank; - where no request lies above it",
        "other: neither answered nor shed; batch, queue, infer: means of what the answers say, ms",
    ]
    choices = chosen(report["entries"])
    if choices:
        lines += ["", *table([["entry", "answered by", "because"], *choices], align_right=False)]
    lines += [f"{kind}: for example: {sample}" for kind, sample in report["samples"].items()]
    return "\n".join(lines)


HEADER = [
    *("entry", "offered", "/s", "ok/s", "good/s", "good", "shed", "other"),
    *("p50", "p90", "p99", "p99.9", "max", "batch", "queue", "infer"),
]


def row(name: str, item: dict[str, Any]) -> list[str]:
    """One line of the table; `other` is neither answered 200 nor shed."""
    outcomes = item["outcomes"]
    return [
        name,
        str(item["offered"]),
        *(number(item[rate]) for rate in ("offered_per_s", "ok_per_s", "goodput_per_s")),
        percent(item["goodput"]),
        percent(item["shed_ratio"]),
        str(item["offered"] - outcomes.get(OK, 0) - outcomes.get(SHED, 0)),
        *(number(value) for value in item["latency_ms"].values()),
        *(number(item[f"mean_{what}"]) for what in ("batch_size", "queue_ms", "inference_ms")),
    ]


def each_and_all(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The rows of the table: every entry of the mix, then all together."""
    return [*report["entries"].items(), ("all", report["all"])]


def chosen(entries: dict[str, dict[str, Any]]) -> list[list[str]]:
    """For entries that were not answered by just the tier they name: who answered, and why."""
    return [
        [
            name,
            ", ".join(f"{tier} {count}" for tier, count in item["answered_by"].items()),
            ", ".join(f"{reason} {count}" for reason, count in item["reasons"].items()) or "-",
        ]
        for name, item in entries.items()
        if not name.startswith("r:") and not item["answered_by"].keys() <= {name}
    ]


def table(rows: list[list[str]], *, align_right: bool = True) -> list[str]:
    """Lines with aligned columns; the first column to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if align_right and place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in rows
    ]


def load_in_words(settings: dict[str, Any]) -> str:
    """Which kind of load it was."""
    if settings["rate"] is None:
        return f"closed loop of {settings['concurrency']} clients"
    return f"open loop, Poisson arrivals at {settings['rate']:g}/s"


def refused_in_words(latency_ms: dict[str, float | None], num_shed: int) -> str:
    """How fast a 429 came."""
    if not num_shed:
        return ""
    return ": a 429 came after " + ", ".join(
        f"{name} {number(latency_ms[name])} ms" for name in ("p50", "p99", "max")
    )


def client_in_words(client: dict[str, Any]) -> str:
    """How the client itself fared."""
    parts = [
        f"{client['cpu_share']:.0%} of a core",
        f"woke up late by p99 {number(client['loop_late_ms']['p99'])} ms",
        f"sent late by p99 {number(client['send_late_ms']['p99'])} ms",
        f"shares this machine's {client['num_cores_shared_with_service']} cores with the service",
    ]
    return ", ".join(part for part in parts if " - " not in part)


def number(value: float | None) -> str:
    """Three digits or more; `-` where there is none."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def percent(value: float | None) -> str:
    """A share; `-` where there is none."""
    return "-" if value is None else f"{100 * value:.1f}%"
