"""The picture of `rapid probe`: accuracy over cost. The one door to matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from service.cli.probe_rows import Row


def draw(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write a PNG: shares of the pictures over shares of the multiply-adds, with intervals.

    Args:
        rows: one per tier.
        path: the file.
        title: what it says above.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    rows = sorted(rows, key=lambda row: row.macs_ratio)
    cost = [100 * row.macs_ratio for row in rows]
    shares = {
        "top-1": [row.top1 for row in rows],
        "top-5": [row.top5 for row in rows],
        "same answer as unreduced": [row.agreement for row in rows],
    }
    for name, parts in shares.items():
        below = [100 * (part.value - part.low) for part in parts]
        above = [100 * (part.high - part.value) for part in parts]
        heights = [100 * part.value for part in parts]
        axes.errorbar(cost, heights, (below, above), marker="o", capsize=3, label=name)
    for row, at in zip(rows, cost, strict=True):
        axes.annotate(row.tier, (at, 100 * row.top1.value), (4, -12), textcoords="offset points")
    axes.set_xlabel("multiply-adds, % of the unreduced model's")
    axes.set_ylabel(f"% of {rows[0].num_pictures} pictures, 95 % intervals")
    axes.set_title(title)
    axes.margins(x=0.12)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png", dpi=120)
