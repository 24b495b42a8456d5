"""Load every model, run every tier once, and then keep measuring how accurate they are."""

import logging
from functools import partial
from pathlib import Path

from service import tiers
from service.accuracy import probe_set
from service.accuracy.probe import Probe
from service.accuracy.probe_set import ProbeSet
from service.api.problems import ALL_STATUSES
from service.backends.engine import Engine
from service.errors import ModelLoadError
from service.models import catalog, timm_models
from service.models.served import ServedModel
from service.pipeline.classify import Service
from service.settings import Settings
from service.telemetry.metrics import CUSTOM_TIER
from service.tiers import TIERS

logger = logging.getLogger(__name__)


async def load_and_probe(
    service: Service, settings: Settings, engine: Engine, probe: Probe
) -> None:
    """Make the service ready; then probe, if wanted, until cancelled.

    Raises:
        ModelLoadError: a model cannot be served, or its probe pictures cannot be used.
    """
    folders = _probe_folders(settings)
    for setting in settings.models:
        load = partial(catalog.load, setting, engine.placement, settings.resize)
        model = await engine.run(load)
        await _warm_up(service, model, settings, engine)
        _announce(service, model)
    probe_sets = [
        (model, _read(folders[model.name], model, settings))
        for model in service.models
        if model.name in folders
    ]
    service.lifecycle.loaded()
    logger.info("ready")
    if settings.probe_interval_s > 0:
        await probe.run(probe_sets, settings.probe_interval_s)


async def _warm_up(
    service: Service, model: ServedModel, settings: Settings, engine: Engine
) -> None:
    sizes = sorted({1, settings.max_batch_size})
    variants = [model.variant(*tiers.of_tier(model.limits, tier)) for tier in settings.warmup_tiers]
    await engine.capture(variants, model.input_size, settings.max_batch_size)
    for variant in variants:
        service.computing.seed(variant, await engine.warm_up(variant, model.input_size, sizes))


def _announce(service: Service, model: ServedModel) -> None:
    service.models.add(model)
    service.metrics.model_ready.labels(model.name).set(1)
    for tier in (*TIERS, CUSTOM_TIER):
        service.metrics.expect_requests(model.name, tier, (200, *ALL_STATUSES))
    logger.info(
        "model ready",
        extra={
            "model": model.name,
            "architecture": model.architecture,
            "num_classes": len(model.labels),
            "num_tokens": model.num_tokens,
        },
    )


def _probe_folders(settings: Settings) -> dict[str, Path]:
    """Where the labelled pictures of the models are, of those that have some.

    Raises:
        ModelLoadError: pictures for a model that is not served.
    """
    if settings.probe_interval_s == 0:
        return {}
    specs = dict(catalog.name_and_spec(setting) for setting in settings.models)
    given = dict(catalog.name_and_spec(entry) for entry in settings.probe_data)
    if strangers := sorted(given.keys() - specs.keys()):
        raise ModelLoadError(
            f"RAPID_PROBE_DATA names {strangers[0]!r}, which is not served; served are "
            f"{', '.join(specs)}"
        )
    own = {name: timm_models.probe_folder(spec) for name, spec in specs.items()}
    found = {name: folder for name, folder in own.items() if folder is not None}
    return found | {name: Path(folder) for name, folder in given.items()}


def _read(folder: Path, model: ServedModel, settings: Settings) -> ProbeSet:
    return probe_set.read(folder, model.labels, max_pictures=settings.probe_max_images)
