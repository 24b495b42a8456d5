"""`rapid probe`: how accurate each tier of a model is on labelled pictures."""

import asyncio
import csv
import importlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from tqdm import tqdm

from service import tiers
from service.accuracy import probe_set
from service.accuracy.counts import Measured, Share
from service.accuracy.probe import measure
from service.accuracy.probe_set import BASELINE, BaselineTier, Picture, ProbeBaseline
from service.backends.engine import Engine
from service.backends.placement import Backend, Precision, choose
from service.errors import ImageRejectedError, ModelLoadError, TooLargeError
from service.images.decode import InputSpec, decode
from service.models import catalog, timm_models
from service.models.served import ServedModel
from service.runtime.device import open_engine
from service.tiers import Tier

GRAPH_BYTES = 2**31
"""of memory, for graphs of what is measured"""


class Wanted(NamedTuple):
    """What to measure."""

    model: str
    """as in RAPID_MODELS"""
    data: Path | None
    """folder with `labels.csv`; None for the one beside the model"""
    tiers: tuple[Tier, ...]
    device: str
    backend: Backend
    precision: Precision
    resize: catalog.Resize
    batch_size: int
    max_images: int


class Row(NamedTuple):
    """One tier."""

    tier: Tier
    method: str
    r: int | None
    macs_ratio: float
    num_pictures: int
    top1: Share
    top5: Share
    agreement: Share


def probe(wanted: Wanted) -> tuple[list[Row], Path, ServedModel]:
    """Measure the tiers, with a progress bar.

    Returns:
        A row per tier, the folder of the pictures, and the model.

    Raises:
        ModelLoadError: the model or the pictures cannot be used.
        SettingsError: the device cannot compute so.
    """
    placement = choose(wanted.device, wanted.backend, wanted.precision)
    folder = wanted.data or timm_models.probe_folder(catalog.name_and_spec(wanted.model)[1])
    if folder is None:
        raise ModelLoadError(f"{wanted.model!r} has no pictures beside it; name some with --data")
    model = catalog.load(wanted.model, placement, wanted.resize)
    pictures = probe_set.read(folder, model.labels, max_pictures=wanted.max_images).pictures
    engine = open_engine(placement, num_threads=0, num_streams=1, max_graph_bytes=GRAPH_BYTES)
    measured = asyncio.run(_measure(model, engine, pictures, wanted))
    engine.close()
    return [_row(model, tier, counts) for tier, counts in measured.items()], folder, model


def table(rows: Sequence[Row]) -> str:
    """The rows as text, shares in percent with their 95 % intervals."""
    lines = [f"{'tier':<9}{'r':>4}{'MACs':>7}{'top-1':>21}{'top-5':>21}{'as unreduced':>21}"]
    for row in rows:
        r = "-" if row.r is None else row.r
        shares = "".join(f"{_percent(part):>21}" for part in (row.top1, row.top5, row.agreement))
        lines.append(f"{row.tier:<9}{r:>4}{row.macs_ratio:>7.0%}{shares}")
    return "\n".join(lines)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line per tier; shares are 0 ... 1, each with both ends of its interval."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        shares = [f"{name}{end}" for name in Row._fields[5:] for end in ("", "_low", "_high")]
        writer.writerow([*Row._fields[:5], *shares])
        for row in rows:
            writer.writerow([*row[:5], *(round(end, 4) for share in row[5:] for end in share)])


def write_png(rows: Sequence[Row], path: Path, title: str) -> None:
    """Accuracy over cost, as a picture.

    Raises:
        ModelLoadError: matplotlib is not installed.
    """
    try:
        importlib.import_module("service.cli.probe_plot").draw(rows, path, title)
    except ModuleNotFoundError as exc:
        raise ModelLoadError("a picture needs matplotlib: pip install 'rapid-vit[plot]'") from exc


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


async def _measure(
    model: ServedModel, engine: Engine, pictures: Sequence[Picture], wanted: Wanted
) -> Mapping[Tier, Measured]:
    measured = {tier: Measured() for tier in wanted.tiers}
    variants = [model.variant(*tiers.of_tier(model.limits, tier)) for tier in wanted.tiers]
    await engine.capture(variants, model.input_size, wanted.batch_size)
    decoded = _decoded(model, tqdm(pictures, desc=model.name, unit=" pictures"))
    while batch := list(islice(decoded, wanted.batch_size)):
        await measure(model, batch, measured, engine.forward)
    return measured


def _decoded(model: ServedModel, pictures: Sequence[Picture]) -> Iterator[tuple[Tensor, int]]:
    spec = InputSpec(model.transform, model.input_spec.resize_side)
    for path, label in pictures:
        try:
            yield decode(path.read_bytes(), spec), label
        except (ImageRejectedError, TooLargeError) as exc:
            raise ModelLoadError(f"{path}: {exc}") from exc


def _row(model: ServedModel, tier: Tier, counts: Measured) -> Row:
    variant = model.variant(*tiers.of_tier(model.limits, tier))
    return Row(
        tier=tier,
        method=variant.method,
        r=variant.r,
        macs_ratio=model.macs_ratio(variant),
        num_pictures=counts.num_pictures,
        top1=counts.top1,
        top5=counts.top5,
        agreement=counts.agreement,
    )


def _percent(share: Share) -> str:
    value, low, high = (100 * part for part in share)
    return f"{value:.1f} ({low:.1f}-{high:.1f})"
