"""Builds everything that one replica needs, and connects it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from service.accuracy.probe import Infer, Probe
from service.accuracy.probe_cache import ProbeCache
from service.accuracy.shadow import Shadow
from service.backends import cores, devices
from service.backends.contract import Variant
from service.backends.engine import MEMORY_KINDS, Engine, Warm
from service.backends.placement import choose
from service.cache import Cache
from service.images.pool import DecodeLimits, DecodePool
from service.models.catalog import Models
from service.pipeline import api_keys
from service.pipeline.admission import Admission, Limits
from service.pipeline.api_keys import ApiKeys
from service.pipeline.brownout import Brownout
from service.pipeline.classify import Defaults, Pipeline
from service.pipeline.entrance import Entrance
from service.pipeline.promises import Promises
from service.runtime.device import open_engine
from service.runtime.lifecycle import Lifecycle, Phase
from service.scheduling.batcher import Batcher
from service.scheduling.forecast import Forecast
from service.scheduling.policy import DISPATCH_REASONS, BatchPolicy, SpareTime
from service.scheduling.scheduler import Scheduler
from service.settings import MEBIBYTE, Settings
from service.telemetry.events import Build, Gauges
from service.telemetry.record import Record


@dataclass(frozen=True)
class Parts:
    """The objects of one replica; there is one of each."""

    lifecycle: Lifecycle
    entrance: Entrance
    engine: Engine
    forecast: Forecast
    """forecast of the seconds to compute a batch, by its number of images"""
    probe: Probe
    pipeline: Pipeline

    def warmed_up(self, variant: Variant, warm: Warm) -> None:
        """Forecast with what a warm-up measured."""
        self.forecast.seed(variant, warm.seconds)
        self.pipeline.batcher.measured(variant, warm.image_s, warm.lone_image_s)

    @property
    def saturation(self) -> float:
        """How close the replica is to refusing requests, 0 ... 1: by room, or by time."""
        pipeline = self.pipeline
        return _saturation(pipeline.admission, pipeline.batcher, pipeline.defaults.deadline_ms)


def build(settings: Settings) -> Parts:
    """Build a replica; nothing of it runs yet.

    Raises:
        SettingsError: the API keys cannot be read, or the device cannot do what is set.
    """
    record = Record()
    engine = open_engine(
        choose(settings.device, settings.backend, settings.precision),
        num_threads=settings.num_threads,
        num_streams=settings.num_streams,
        max_graph_bytes=settings.graph_memory_mib * MEBIBYTE,
    )
    forecast = Forecast(max_size=settings.max_batch_size)
    batcher = _batcher(settings, engine, forecast, record)
    pool = DecodePool(
        settings.decode_threads or cores.count(),
        DecodeLimits(
            settings.max_pixels,
            settings.decode_timeout_s,
            settings.decode_memory_mib * MEBIBYTE,
        ),
        on_change=batcher.coming,
    )
    keys = _read_keys(settings)
    pipeline = _pipeline(
        settings, batcher, pool, record, _admission(settings, batcher, is_shared=keys.num_keys > 1)
    )
    probe = Probe(_in_spare_time(batcher), pool, record.accuracy, _probe_cache(settings, engine))
    entrance = Entrance(keys, pipeline.admission)
    parts = Parts(Lifecycle(), entrance, engine, forecast, probe, pipeline)
    _publish(parts, settings)
    return parts


def _batcher(
    settings: Settings, engine: Engine, forecast: Forecast, record: Record
) -> Batcher[Variant]:
    policy = BatchPolicy(
        settings.max_batch_size,
        settings.max_wait_ms / 1000,
        num_streams=engine.num_streams,
        num_threads=engine.num_threads,
    )
    scheduler: Scheduler[Variant] = Scheduler(
        policy,
        forecast.seconds,
        SpareTime(settings.spare_share),
        observe=forecast.observe,
        caution=forecast.caution,
    )
    return Batcher(engine.forward, scheduler, on_batch=record.batch_done)


def _in_spare_time(batcher: Batcher[Variant]) -> Infer:
    async def infer(variant: Variant, images: Sequence[Tensor]) -> list[Tensor]:
        answers = [await batcher.submit_spare(variant, image) for image in images]
        return [answer.result for answer in answers]

    return infer


def _probe_cache(settings: Settings, engine: Engine) -> ProbeCache:
    """The results of earlier probes that were computed in the same way."""
    gpu = devices.name(engine.device)
    computes = (gpu, settings.resize, settings.color)
    return ProbeCache(Cache(settings.cache_dir), computes)


def _admission(settings: Settings, batcher: Batcher[Variant], *, is_shared: bool) -> Admission:
    limits = Limits(
        settings.max_queue_images,
        settings.max_queue_bytes,
        max_images_per_key=settings.max_images_per_key,
        is_shared=is_shared,
    )

    def all_done_s() -> float:
        # The lanes of images that are being decoded are not known: they count like the others.
        known = max(1, batcher.num_inside)
        return batcher.backlog_s * max(1.0, admission.num_images / known)

    admission = Admission(limits, all_done_s=all_done_s, coming=batcher.admitted)
    return admission


def _pipeline(
    settings: Settings,
    batcher: Batcher[Variant],
    pool: DecodePool,
    record: Record,
    admission: Admission,
) -> Pipeline:
    pressure = partial(_saturation, admission, batcher, settings.deadline_ms)
    return Pipeline(
        models=Models(),
        admission=admission,
        promises=Promises(),
        brownout=Brownout(pressure if settings.brownout == "on" else lambda: 0.0),
        pool=pool,
        batcher=batcher,
        shadow=_shadow(settings, batcher, record),
        record=record,
        defaults=Defaults(settings.default_tier, settings.deadline_ms),
    )


def _saturation(admission: Admission, batcher: Batcher[Variant], deadline_ms: float) -> float:
    return min(1.0, max(admission.fill, 1000 * batcher.backlog_s / deadline_ms))


def _publish(parts: Parts, settings: Settings) -> None:
    """Tell the record what is running, and which functions give the gauges at a scrape."""
    record, batcher, engine = parts.pipeline.record, parts.pipeline.batcher, parts.engine
    placement = engine.placement
    record.started(
        Build(
            version("rapid-vit"),
            version("torch"),
            version("timm"),
            str(placement.device),
            placement.backend,
            settings.precision,
        ),
        dispatch_reasons=DISPATCH_REASONS,
    )
    record.accuracy.probes_begin(settings.probe_interval_s)
    record.watch(
        Gauges(
            queue_images=lambda: batcher.num_waiting,
            running_batch=lambda: batcher.running_s,
            saturation=lambda: parts.saturation,
            brownout_level=parts.pipeline.brownout.level,
            ready=lambda: parts.lifecycle.phase is Phase.READY,
            device_memory={kind: partial(engine.memory_bytes, kind) for kind in MEMORY_KINDS},
        )
    )


def _read_keys(settings: Settings) -> ApiKeys:
    path = settings.api_keys_file
    return ApiKeys(
        api_keys.read(Path(path)) if path else {},
        max_requests_per_key=settings.max_requests_per_key,
    )


def _shadow(settings: Settings, batcher: Batcher[Variant], record: Record) -> Shadow | None:
    fraction = settings.shadow_fraction
    return Shadow(_in_spare_time(batcher), record.accuracy, fraction=fraction) if fraction else None
