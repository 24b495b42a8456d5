"""Build every object, pass it on, start and drain. Nothing is decided here."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from torch import Tensor

from service.accuracy.probe import Probe
from service.accuracy.shadow import Shadow
from service.api import health, problems
from service.api.headers import Envelope
from service.api.open_inference import routes
from service.api.v1 import classify
from service.api.v1 import models as model_routes
from service.backends import cores, cuda_graphs
from service.backends.contract import Variant
from service.backends.engine import MEMORY_KINDS, Engine, share_out
from service.backends.placement import choose
from service.errors import ModelLoadError
from service.images.pool import Decoder
from service.models.catalog import Models
from service.pipeline import api_keys
from service.pipeline.admission import Admission
from service.pipeline.api_keys import ApiKeys
from service.pipeline.brownout import Brownout
from service.pipeline.classify import Service
from service.pipeline.request import PHASES, UNKNOWN
from service.runtime.lifecycle import Lifecycle, Phase
from service.runtime.startup import load_and_probe
from service.scheduling.batcher import Batcher, Finished, Hooks
from service.scheduling.forecast import Forecast
from service.scheduling.policy import DISPATCH_REASONS, BatchPolicy, SpareTime
from service.settings import MEBIBYTE, Settings
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

DESCRIPTION = (
    "Vision Transformer classifiers that let every request choose how much of the network's work "
    "to skip: `tier`, or the number `r` of tokens to remove in every block."
)


def create_app(
    settings: Settings,
    lifecycle: Lifecycle | None = None,
    on_failure: Callable[[], None] | None = None,
) -> FastAPI:
    """Build the service.

    Args:
        settings: all of them.
        lifecycle: the phase of the process, for whoever else has a say in it.
        on_failure: called when the service cannot go on, after `/livez` has turned red.

    Raises:
        SettingsError: the API keys cannot be read, or the device cannot compute so.
    """
    placement = choose(settings.device, settings.backend, settings.precision)
    threads = share_out(placement, settings.num_threads, settings.num_streams)._asdict()
    prepared = cuda_graphs.of_placement(
        placement, **threads, max_bytes=settings.graph_memory_mib * MEBIBYTE
    )
    engine = Engine(placement, **threads, graphs=prepared)
    metrics = Metrics(CollectorRegistry())
    metrics.build_info.labels(
        version("rapid-vit"),
        version("torch"),
        version("timm"),
        str(placement.device),
        placement.backend,
        placement.precision,
    ).set(1)
    service = _build_service(settings, engine, metrics, lifecycle or Lifecycle())
    probe = _build_probe(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(load_and_probe(service, settings, engine, probe)),
            asyncio.create_task(service.shadow.run()),
            asyncio.create_task(service.batcher.run()),
            asyncio.create_task(service.batcher.watch(settings.batch_timeout_s)),
        ]
        for task in tasks:
            task.add_done_callback(lambda task: _fail_with(task, service.lifecycle, on_failure))
        yield
        service.lifecycle.drain()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Nobody waits for what the threads still do, and a stuck one would never end.
        service.decoder.close()
        engine.close()

    app = FastAPI(
        title="rapid-vit",
        version=version("rapid-vit"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.add_middleware(Envelope, lifecycle=service.lifecycle)
    problems.install(app)
    app.include_router(classify.create_router(service, settings))
    app.include_router(model_routes.create_router(service))
    app.include_router(routes.create_router(service, settings))
    app.include_router(health.create_router(service))
    return app


def _build_service(
    settings: Settings, engine: Engine, metrics: Metrics, lifecycle: Lifecycle
) -> Service:
    computing = Forecast(max_size=settings.max_batch_size)
    decoder = Decoder(settings.decode_threads or cores.count(), max_pixels=settings.max_pixels)
    served = Models()
    batcher: Batcher[Variant] = Batcher(
        engine.forward,
        BatchPolicy(
            settings.max_batch_size,
            settings.max_wait_ms / 1000,
            num_streams=engine.num_streams,
            num_threads=engine.num_threads,
        ),
        Hooks(
            computing.seconds,
            partial(_count_batch, metrics, computing, served),
            lambda: lifecycle.phase is Phase.DRAINING,
            lambda: decoder.num_inside,
        ),
        spare_time=SpareTime(settings.spare_share),
    )
    admission = Admission(
        max_images=settings.max_queue_images,
        max_bytes=settings.max_queue_bytes,
        retry_after_s=lambda: max(1, math.ceil(batcher.backlog_s)),
    )
    pressure = partial(_pressure, batcher, admission, settings.deadline_ms / 1000)
    service = Service(
        models=served,
        lifecycle=lifecycle,
        api_keys=_read_keys(settings),
        admission=admission,
        decoder=decoder,
        batcher=batcher,
        shadow=Shadow(batcher, metrics, fraction=settings.shadow_fraction),
        computing=computing,
        brownout=Brownout(pressure if settings.brownout == "on" else lambda: 0.0),
        metrics=metrics,
        default_tier=settings.default_tier,
        default_deadline_ms=settings.deadline_ms,
        max_batch_size=settings.max_batch_size,
    )
    _publish_gauges(service, engine, pressure)
    metrics.probe_interval.set(settings.probe_interval_s)
    return service


def _count_batch(
    metrics: Metrics, computing: Forecast, served: Models, batch: Finished[Variant]
) -> None:
    """Note a finished batch where it is of use."""
    computing.observe(batch.lane, batch.num_images, batch.device_s)
    metrics.dispatches.labels(batch.reason).inc()
    metrics.device_busy.labels("spare" if batch.is_spare else "clients").inc(batch.device_s)
    if not batch.is_spare:
        metrics.batch_size.labels(batch.lane.model, batch.lane.method).observe(batch.num_images)
        served.find(batch.lane.model).statistics.executed(batch.num_images, batch.seconds)


def _pressure(batcher: Batcher[Variant], admission: Admission, deadline_s: float) -> float:
    """How close the service is to refusing requests, 0 ... 1: by room, or by time."""
    return min(1.0, max(admission.fill, batcher.backlog_s / deadline_s))


def _publish_gauges(service: Service, engine: Engine, pressure: Callable[[], float]) -> None:
    metrics, batcher, lifecycle = service.metrics, service.batcher, service.lifecycle
    metrics.queue_images.set_function(lambda: batcher.num_waiting)
    metrics.running_batch.set_function(lambda: batcher.running_s)
    metrics.saturation.set_function(pressure)
    metrics.brownout_level.set_function(service.brownout.level)
    metrics.ready.set_function(lambda: lifecycle.phase is Phase.READY)
    for kind in MEMORY_KINDS:
        metrics.device_memory.labels(kind).set_function(partial(engine.memory_bytes, kind))
    _start_at_zero(metrics)


def _start_at_zero(metrics: Metrics) -> None:
    """A counter that appears with its first event hides that event from Prometheus' rate()."""
    for reason in DISPATCH_REASONS:
        metrics.dispatches.labels(reason)
    for phase in PHASES:
        metrics.cancelled.labels(phase)
    for error in problems.STATUS:
        metrics.rejected.labels(error.code)
    for work in ("clients", "spare"):
        metrics.device_busy.labels(work)
    metrics.expect_requests(UNKNOWN, UNKNOWN, problems.ALL_STATUSES)


def _build_probe(service: Service) -> Probe:
    async def infer(variant: Variant, pictures: Sequence[Tensor]) -> list[Tensor]:
        answers = [await service.batcher.submit_spare(variant, pixels) for pixels in pictures]
        return [answer.logits for answer in answers]

    return Probe(infer, service.decoder, service.metrics)


def _read_keys(settings: Settings) -> ApiKeys:
    path = settings.api_keys_file
    return ApiKeys(
        api_keys.read(Path(path)) if path else {},
        max_requests_per_key=settings.max_requests_per_key,
    )


def _fail_with(
    task: asyncio.Task[None], lifecycle: Lifecycle, on_failure: Callable[[], None] | None
) -> None:
    """Turn the service red if one of its tasks has died."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    lifecycle.fail()
    # What is wrong with a model is said in words; of anything else the place matters.
    place = None if isinstance(error, ModelLoadError) else error
    logger.critical("the service cannot go on: %s", error, exc_info=place)
    if on_failure is not None:
        on_failure()
