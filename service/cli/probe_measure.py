"""How accurate each tier of a model is on labelled pictures: the work of `rapid probe`."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from service.accuracy import probe_set
from service.accuracy.counts import Measured
from service.accuracy.probe import measure
from service.accuracy.probe_set import Picture
from service.backends.engine import Engine
from service.backends.options import Backend, Precision
from service.backends.placement import Placement, choose
from service.cli.probe_rows import Row
from service.errors import ModelLoadError
from service.images import files
from service.images.options import COLOR, Color, Resize
from service.models import catalog, timm_models
from service.models.served import ServedModel
from service.runtime.device import open_engine
from service.tiers import TIERS, Tier

GRAPH_BYTES = 2**31
"""of memory, for graphs of what is measured"""

Track = Callable[[Sequence[Picture], str], Iterable[Picture]]
"""gives the pictures back one by one, and may show how many have been asked for; the text is the
model's name"""


class Wanted(NamedTuple):
    """What to measure."""

    model: str
    """as in RAPID_MODELS"""
    data: Path | None = None
    """folder with `labels.csv`; None for the one beside the model"""
    tiers: tuple[Tier, ...] = TIERS
    device: str = "auto"
    backend: Backend = "auto"
    precision: Precision = "float32"
    resize: Resize = "pillow"
    color: Color = COLOR
    batch_size: int = 16
    max_images: int | None = None
    """of more pictures, evenly spaced ones; None for all"""


class Probed(NamedTuple):
    """What was measured."""

    rows: list[Row]
    """one per tier"""
    folder: Path
    """of the pictures"""
    model: str
    """the name of the model"""
    architecture: str


def measure_tiers(wanted: Wanted, track: Track = lambda pictures, _: pictures) -> Probed:
    """Measure the tiers of a model.

    Args:
        wanted: the model, the pictures, the tiers and how to compute.
        track: is told of each picture.

    Raises:
        ModelLoadError: the model or the pictures cannot be used.
        SettingsError: there is no such device, or it cannot compute so.
    """
    placement = choose(wanted.device, wanted.backend, wanted.precision)
    folder = wanted.data or timm_models.probe_folder(catalog.name_and_spec(wanted.model)[1])
    if folder is None:
        raise ModelLoadError(f"{wanted.model!r} has no pictures beside it; name some with --data")
    with closing(_engine(placement)) as engine:
        model = catalog.load(wanted.model, placement, wanted.resize, wanted.color)
        most = wanted.max_images or sys.maxsize
        listed = probe_set.read(folder, model.labels, max_pictures=most).pictures
        counts = asyncio.run(_measure(model, engine, track(listed, model.name), wanted))
    rows = [_row(model, tier, counts[tier]) for tier in wanted.tiers]
    return Probed(rows, folder, model.name, model.architecture)


def _engine(placement: Placement) -> Engine:
    return open_engine(placement, num_threads=0, num_streams=1, max_graph_bytes=GRAPH_BYTES)


async def _measure(
    model: ServedModel, engine: Engine, listed: Iterable[Picture], wanted: Wanted
) -> Mapping[Tier, Measured]:
    measured = {tier: Measured() for tier in wanted.tiers}
    variants = [model.at(tier) for tier in wanted.tiers]
    await engine.capture(variants, model.input_size, wanted.batch_size)
    decoded = _decoded(model, listed)
    while batch := list(islice(decoded, wanted.batch_size)):
        await measure(model, batch, measured, engine.forward)
    return measured


def _decoded(model: ServedModel, listed: Iterable[Picture]) -> Iterator[tuple[Tensor, int]]:
    spec = model.input_spec._replace(transform=model.transform)
    for path, label in listed:
        yield files.read(path, spec), label


def _row(model: ServedModel, tier: Tier, counts: Measured) -> Row:
    variant = model.at(tier)
    return Row(
        tier=tier,
        method=variant.method,
        r=variant.r,
        macs_ratio=variant.macs_ratio,
        num_pictures=counts.num_pictures,
        top1=counts.top1,
        top5=counts.top5,
        agreement=counts.agreement,
    )
