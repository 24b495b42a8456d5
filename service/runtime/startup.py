"""What a replica does once, before it is ready: load each model and run its tiers."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from service.accuracy import probe_set
from service.accuracy.probe_set import ProbeSet
from service.backends.contract import Variant
from service.backends.engine import Engine, Warm
from service.backends.options import Precision
from service.errors import InferenceError, ModelLoadError, OutOfDeviceMemoryError
from service.models import catalog
from service.models.served import ServedModel
from service.runtime import precision as precisions
from service.settings import Settings
from service.telemetry.events import ModelLoaded, WayChosen

WarmVariants = dict[Variant, Warm]
"""variants that have run -> what was measured"""


async def load_models(
    settings: Settings, engine: Engine, on_choice: Callable[[WayChosen], None]
) -> AsyncIterator[tuple[ServedModel, WarmVariants]]:
    """Load and warm up the models, one after the other, in the order of the setting.

    Args:
        settings: of the service.
        engine: where the models compute.
        on_choice: is told how each model computes, and why.

    Raises:
        ModelLoadError: a model cannot be served.
    """
    for setting in settings.models:
        placement, way = await precisions.choose(setting, settings, engine)
        on_choice(way)
        load = partial(catalog.load, setting, placement, settings.resize, settings.color)
        model = await engine.run(load)
        yield model, await _warm_up(model, settings, engine, placement.precision)


async def _warm_up(
    model: ServedModel, settings: Settings, engine: Engine, precision: Precision
) -> WarmVariants:
    """Run all tiers to warm up.

    Raises:
        ModelLoadError: one of them gives logits that are not finite.
    """
    sizes = sorted({1, settings.max_batch_size})
    variants = {tier: model.at(tier) for tier in settings.warmup_tiers}
    await engine.capture(list(variants.values()), model.input_size, settings.max_batch_size)
    warm = {}
    for tier, variant in variants.items():
        try:
            warm[variant] = await engine.warm_up(variant, model.input_size, sizes)
        except OutOfDeviceMemoryError:
            raise
        except InferenceError as exc:
            raise ModelLoadError(
                f"cannot serve {model.name!r}: {exc} at tier {tier}, computed in "
                f"{precision}; {_advice(precision)}"
            ) from exc
    return warm


def _advice(precision: Precision) -> str:
    """What to do about logits that are not finite."""
    if precision == "float32":
        return "its weights are damaged: compare model.safetensors with a copy that is good"
    return "its values may be too large for that: try RAPID_PRECISION=bfloat16 or float32"


def loaded(model: ServedModel) -> ModelLoaded:
    """The event that a model is loaded and warm."""
    return ModelLoaded(model.name, model.architecture, len(model.labels), model.num_tokens)


def probe_folders(settings: Settings) -> dict[str, Path]:
    """The folders of labelled pictures, by model; only models that have such pictures.

    Raises:
        ModelLoadError: the setting gives pictures for a model that is not served.
    """
    if settings.probe_interval_s == 0:
        return {}
    names = [catalog.name_and_spec(setting)[0] for setting in settings.models]
    given = {catalog.name_and_spec(entry)[0] for entry in settings.probe_data}
    if strangers := sorted(given.difference(names)):
        raise ModelLoadError(
            f"RAPID_PROBE_DATA names {strangers[0]!r}, which is not served; served are "
            f"{', '.join(names)}"
        )
    folders = [catalog.probe_folder(setting, settings.probe_data) for setting in settings.models]
    return {name: folder for name, folder in zip(names, folders, strict=True) if folder is not None}


def read_probe_set(folder: Path, model: ServedModel, settings: Settings) -> ProbeSet:
    """The labelled pictures of a model.

    Raises:
        ModelLoadError: they cannot be used.
    """
    return probe_set.read(folder, model.labels, max_pictures=settings.probe_max_images)
