"""The report for people: sentences, and the cells of tables."""

from typing import Any

from service.load.outcomes import OK, SHED

RATES = ("entry", "offered", "/s", "ok/s", "good/s", "good", "shed", "other")
LATENCIES = ("entry", "p50", "p90", "p99", "p99.9", "max", "batch", "queue", "infer")
LEGEND = (
    "other: neither answered nor shed",
    "p50 to max: ms from due to answered 200, nearest rank; - where no request lies above it",
    "batch, queue, infer: means of what the answers say; queue and infer in ms",
)


def summary(report: dict[str, Any]) -> list[str]:
    """The most important figures, one line each."""
    totals, settings = report["all"], report["settings"]
    outcomes = ", ".join(f"{kind} {count}" for kind, count in totals["outcomes"].items())
    return [
        f"{load_in_words(settings)}; {report['measured_s']:.1f} s measured, "
        f"model {report['model']}",
        f"offered   {totals['offered_per_s']:.1f}/s: {totals['offered']} requests ({outcomes})",
        f"answered  {totals['ok_per_s']:.1f}/s",
        f"goodput   {totals['goodput_per_s']:.1f}/s: {percent(totals['goodput'])} of the offered "
        f"requests were answered within {settings['deadline_ms']:g} ms",
        f"shed      {percent(totals['shed_ratio'])}"
        + refused_in_words(totals["shed_latency_ms"], totals["outcomes"].get(SHED, 0)),
        f"client    {client_in_words(report['client'])}",
    ]


def rates(report: dict[str, Any]) -> list[list[str]]:
    """The rows of the table of `RATES`; `other` is neither answered 200 nor shed."""
    return [
        [
            name,
            str(item["offered"]),
            *(number(item[rate]) for rate in ("offered_per_s", "ok_per_s", "goodput_per_s")),
            percent(item["goodput"]),
            percent(item["shed_ratio"]),
            str(item["offered"] - sum(item["outcomes"].get(kind, 0) for kind in (OK, SHED))),
        ]
        for name, item in each_and_all(report)
    ]


def latencies(report: dict[str, Any]) -> list[list[str]]:
    """The rows of the table of `LATENCIES`."""
    means = ("mean_batch_size", "mean_queue_ms", "mean_inference_ms")
    return [
        [
            name,
            *(number(value) for value in item["latency_ms"].values()),
            *(number(item[mean]) for mean in means),
        ]
        for name, item in each_and_all(report)
    ]


def each_and_all(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a table: every entry of the mix, then all together."""
    return [*report["entries"].items(), ("all", report["all"])]


def choices(report: dict[str, Any]) -> list[str]:
    """For each entry that its own tier did not answer alone: the tiers that answered, and why."""
    lines = []
    for name, item in report["entries"].items():
        tiers, reasons = (
            ", ".join(f"{word} {count}" for word, count in item[what].items())
            for what in ("answered_by", "reasons")
        )
        if not name.startswith("r:") and not item["answered_by"].keys() <= {name}:
            lines.append(f"{name}  {tiers}" + (f", because: {reasons}" if reasons else ""))
    return lines


def load_in_words(settings: dict[str, Any]) -> str:
    """The kind of load, closed or open loop."""
    if settings["rate"] is None:
        return f"closed loop of {settings['concurrency']} clients"
    return f"open loop, Poisson arrivals at {settings['rate']:g}/s"


def refused_in_words(latency_ms: dict[str, float | None], num_shed: int) -> str:
    """How soon a 429 came, if there was any."""
    if not num_shed:
        return ""
    return ": a 429 came after " + ", ".join(
        f"{name} {number(latency_ms[name])} ms" for name in ("p50", "p99", "max")
    )


def client_in_words(client: dict[str, Any]) -> str:
    """How busy and how late the client itself was."""
    parts = [
        f"{client['cpu_share']:.0%} of a core",
        f"woke up late by p99 {number(client['loop_late_ms']['p99'])} ms",
        f"sent late by p99 {number(client['send_late_ms']['p99'])} ms",
    ]
    if client["num_cores_shared_with_service"] is not None:
        num_cores = client["num_cores_shared_with_service"]
        parts.append(f"shares this machine's {num_cores} cores with the service")
    return ", ".join(part for part in parts if " - " not in part)


def number(value: float | None) -> str:
    """A number with one decimal below 100 and none from 100 up; `-` for None."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def percent(value: float | None) -> str:
    """A share in percent; `-` for None."""
    return "-" if value is None else f"{100 * value:.1f}%"
