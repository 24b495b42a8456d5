"""How a model will compute: as the settings say, as an earlier start has found, or by a trial."""

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from service.backends import candidates, devices
from service.backends.engine import Engine
from service.backends.placement import Placement
from service.cache import Cache
from service.models import catalog, timm_models
from service.runtime import remembered, trial_process
from service.settings import Settings
from service.telemetry.events import WayChosen

logger = logging.getLogger(__name__)

OF_A_MODEL = ("config.json", "model.safetensors", timm_models.CALIBRATION)


async def choose(setting: str, settings: Settings, engine: Engine) -> tuple[Placement, WayChosen]:
    """How one entry of RAPID_MODELS computes, and why."""
    name, spec = catalog.name_and_spec(setting)
    reference = engine.placement
    if settings.precision != "auto":
        return reference, WayChosen(name, reference.backend, reference.precision, "setting")
    ways = candidates.of(reference, settings.backend)
    if len(ways) == 1:
        return reference, WayChosen(name, reference.backend, reference.precision, "only")
    folder = timm_models.folder_of(spec)
    probe_folder = catalog.probe_folder(setting, settings.probe_data)
    about = {
        "model": await asyncio.to_thread(_digests, spec, folder),
        "pictures": str(probe_folder),
        "device": devices.name(engine.device),
        "threads": [engine.num_threads, engine.num_streams],
        "ways": [[way.backend, way.precision] for way in ways],
        "settings": [settings.resize, settings.color, list(settings.warmup_tiers)],
    }
    kept = Cache(settings.cache_dir)
    found = await asyncio.to_thread(remembered.find, about, kept)
    if found is None or _place_of(found, ways) is None:
        tried = [f"{way.backend} {way.precision}" for way in ways]
        logger.info("trying precisions", extra={"model": name, "tried": tried})
        found = await trial_process.run(setting, settings, probe_folder)
        if found is None:
            return reference, WayChosen(name, reference.backend, reference.precision, "failed")
        if all(tried.verdict != "failed" for tried in found.tried):
            await asyncio.to_thread(remembered.keep, found, about, kept)
    return _place_of(found, ways) or reference, replace(found, model=name)


def _place_of(found: WayChosen, ways: Sequence[Placement]) -> Placement | None:
    wanted = (found.backend, found.precision)
    return next((way for way in ways if (way.backend, way.precision) == wanted), None)


def _digests(spec: str, folder: Path | None) -> object:
    """What tells a model from others: the digests of its files, or the name of a download."""
    files = [] if folder is None else [folder / name for name in OF_A_MODEL]
    return {path.name: _digest(path) for path in files if path.is_file()} or spec


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
