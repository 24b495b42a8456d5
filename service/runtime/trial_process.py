"""Runs a trial in a process of its own, which is over before the model is served.

So nothing of it stays in the memory of the service, and a way to compute that ends its process ends
only the trial. `python -m service.runtime.trial_process` is that process.
"""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from service.accuracy import probe_set
from service.backends import candidates
from service.backends.malloc import keep_freed_memory
from service.backends.placement import Placement, choose
from service.models import catalog, timm_models
from service.models.served import ServedModel
from service.runtime.comparison import Picture
from service.runtime.device import open_engine
from service.runtime.trial import MOST_PICTURES, Trial
from service.settings import Settings
from service.telemetry import logs
from service.telemetry.events import WayChosen

logger = logging.getLogger(__name__)

BUNDLED = "everyday-vit-s14"
"""the model whose pictures are taken for models without any"""
MOST_S = 300.0
"""longest trial; the service then starts in float32"""
WAY = TypeAdapter(WayChosen)


class Order(BaseModel):
    """What to try."""

    setting: str
    """an entry of RAPID_MODELS"""
    settings: Settings
    probe_folder: Path | None
    """labelled pictures of the model; None: it has none"""


async def run(setting: str, settings: Settings, probe_folder: Path | None) -> WayChosen | None:
    """Try the ways to compute a model. None, and a line in the log, if that is not possible.

    Args:
        setting: an entry of RAPID_MODELS.
        settings: of the service.
        probe_folder: labelled pictures of the model, if it has some.
    """
    order = Order(setting=setting, settings=settings, probe_folder=probe_folder)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", __name__),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the service, which then ends this process
    )
    try:
        async with asyncio.timeout(MOST_S):
            output, _ = await process.communicate(order.model_dump_json().encode())
    except TimeoutError:
        output = b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        return WAY.validate_json(output.splitlines()[-1])
    except (IndexError, ValidationError):
        logger.warning("no precision can be tried", extra={"status": process.returncode})
        return None


def main() -> None:
    """Do what standard input says, and write what was chosen to standard output."""
    order = Order.model_validate_json(sys.stdin.buffer.read())
    logs.configure("warning")
    keep_freed_memory()
    way = asyncio.run(_try(order))
    sys.stdout.buffer.write(WAY.dump_json(way) + b"\n")


async def _try(order: Order) -> WayChosen:
    settings = order.settings
    placement = choose(settings.device, settings.backend, "auto")
    engine = open_engine(
        placement,
        num_threads=settings.num_threads,
        num_streams=settings.num_streams,
        max_graph_bytes=0,
    )
    with closing(engine):
        load = partial(_load, order)
        trial = Trial(engine, load, settings.warmup_tiers, partial(_pictures, order.probe_folder))
        name, _ = catalog.name_and_spec(order.setting)
        return await trial.choose(name, candidates.of(placement, settings.backend))


def _load(order: Order, way: Placement) -> ServedModel:
    return catalog.load(order.setting, way, order.settings.resize, order.settings.color)


def _pictures(folder: Path | None, model: ServedModel) -> Sequence[Picture]:
    """The labelled pictures of a model; without any, those of the bundled one, without labels."""
    if folder is not None:
        listed = probe_set.read(folder, model.labels, max_pictures=MOST_PICTURES)
        return [Picture(path, label) for path, label in listed.pictures]
    bundled = timm_models.probe_folder(BUNDLED)
    assert bundled is not None
    return [Picture(path, None) for path in sorted(bundled.glob("*.jpg"))]


if __name__ == "__main__":
    main()
