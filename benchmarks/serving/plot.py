"""The picture of `benchmarks.serving`: throughput and p99 under full load, beside the best peer."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.serving.plan import DENSE, FULL_LOAD, MIXED

OUR_COLOUR, PEER_COLOUR = "#0072b2", "#999999"


def draw(found: dict[str, Any], path: Path, model: str) -> None:
    """Write a PNG of two panels, one bar per server and tier.

    Args:
        found: what `report.build` gives.
        path: the file.
        model: its name, for the title.
    """
    rows = [item for item in found["rows"] if item["load"] == FULL_LOAD and item["entry"] != MIXED]
    rows.sort(key=lambda item: item["per_s"])
    peers = [item for item in rows if item["server"] == found["best_peer"]]
    base = peers[0] if peers else rows[0]
    figure = Figure(figsize=(11, 0.45 * len(rows) + 1.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    name = label(base)
    bars(left, rows, "per_s", base, f"throughput, {name} = 1 (more is better)")
    bars(right, rows, "p99_ms", base, f"p99, {name} = 1 (less is better)")
    figure.suptitle(f"{model}, {FULL_LOAD}; rounds in turn: {base['rounds']}")
    figure.savefig(path, format="png", dpi=120)


def bars(
    axes: Axes, rows: list[dict[str, Any]], what: str, base: dict[str, Any], title: str
) -> None:
    """One panel."""
    values = [(item[what] or 0.0) / (base[what] or 1.0) for item in rows]
    colours = [OUR_COLOUR if item["entry"] != DENSE else PEER_COLOUR for item in rows]
    drawn = axes.barh([label(item) for item in rows], values, color=colours)
    axes.bar_label(drawn, [f"{value:.2f}" if value else "-" for value in values], padding=3)
    axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_title(title, fontsize=10)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)


def label(item: dict[str, Any]) -> str:
    """A bar's name."""
    is_peer = item["entry"] == DENSE
    return str(item["server"]) if is_peer else f"{item['server']}: {item['entry']}"
