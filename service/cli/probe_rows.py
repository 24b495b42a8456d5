"""What `rapid probe` measures of one tier, and the files that are made of it."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from service.accuracy.counts import Share
from service.accuracy.probe_set import BASELINE, BaselineTier, ProbeBaseline
from service.tiers import Tier


class Row(NamedTuple):
    """One tier."""

    tier: Tier
    method: str
    r: int | None
    """None where a calibrated schedule runs"""
    macs_ratio: float
    """multiply-adds as a share of the unreduced model's, 0 ... 1"""
    num_pictures: int
    top1: Share
    top5: Share
    agreement: Share


def cells(row: Row) -> tuple[str, ...]:
    """Tier, r, multiply-adds and the shares as text, in percent with their 95 % intervals."""
    r = "-" if row.r is None else str(row.r)
    shares = (_percent(share) for share in (row.top1, row.top5, row.agreement))
    return row.tier, r, f"{row.macs_ratio:.0%}", *shares


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line per tier; shares are 0 ... 1, each with both ends of its interval."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        shares = [f"{name}{end}" for name in Row._fields[5:] for end in ("", "_low", "_high")]
        writer.writerow([*Row._fields[:5], *shares])
        for row in rows:
            writer.writerow([*row[:5], *(round(end, 4) for share in row[5:] for end in share)])


def write_baseline(rows: Sequence[Row], folder: Path, architecture: str) -> Path:
    """Note beside the pictures what a good model reaches, for the alert on accuracy."""
    baseline = ProbeBaseline(
        architecture=architecture,
        num_pictures=rows[0].num_pictures,
        tiers={
            row.tier: BaselineTier(top1=round(row.top1.value, 4), top5=round(row.top5.value, 4))
            for row in rows
        },
    )
    path = folder / BASELINE
    path.write_text(f"{baseline.model_dump_json(indent=1)}\n")
    return path


def _percent(share: Share) -> str:
    value, low, high = (100 * part for part in share)
    return f"{value:.1f} ({low:.1f}-{high:.1f})"
