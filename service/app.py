"""Build every object, pass it on, start and drain. Nothing is decided here."""

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from service import models, tiers
from service.admission import Admission
from service.batching import Batcher
from service.classify import Service
from service.engine import Engine, choose_device
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.models import Models, ServedModel, Variant
from service.routes import classify, health, problems
from service.routes import models as model_routes
from service.routes.request_ids import RequestIds
from service.settings import Settings

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
    """
    device = choose_device(settings.device)
    engine = Engine(device, num_threads=settings.num_threads)
    metrics = Metrics(CollectorRegistry())
    metrics.build_info.labels(
        version("rapid-vit"), version("torch"), version("timm"), str(device)
    ).set(1)
    service = _build_service(settings, engine, metrics, lifecycle or Lifecycle())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(_load(service, settings, engine)),
            asyncio.create_task(service.batcher.run()),
        ]
        for task in tasks:
            task.add_done_callback(lambda task: _fail_with(task, service.lifecycle, on_failure))
        yield
        service.lifecycle.drain()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        service.decoders.shutdown(wait=True, cancel_futures=True)
        engine.close()

    app = FastAPI(
        title="rapid-vit",
        version=version("rapid-vit"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.add_middleware(RequestIds)
    problems.install(app)
    app.include_router(classify.create_router(service, settings))
    app.include_router(model_routes.create_router(service))
    app.include_router(health.create_router(service))
    return app


def _build_service(
    settings: Settings, engine: Engine, metrics: Metrics, lifecycle: Lifecycle
) -> Service:
    seconds_per_image = 0.0  # of the last batch, to tell refused clients when to come again

    def on_batch(variant: Variant, num_images: int, seconds: float) -> None:
        nonlocal seconds_per_image
        seconds_per_image = seconds / num_images
        metrics.batch_size.labels(variant.model, variant.method).observe(num_images)

    def retry_after_s() -> int:
        return max(1, math.ceil(batcher.num_waiting * seconds_per_image))

    batcher: Batcher[Variant] = Batcher(
        engine.forward, max_batch_size=settings.max_batch_size, on_batch=on_batch
    )
    metrics.queue_images.set_function(lambda: batcher.num_waiting)
    return Service(
        models=Models(),
        lifecycle=lifecycle,
        admission=Admission(
            max_images=settings.max_queue_images,
            max_bytes=settings.max_queue_bytes,
            retry_after_s=retry_after_s,
        ),
        decoders=ThreadPoolExecutor(
            settings.decode_threads or os.cpu_count(), thread_name_prefix="decode"
        ),
        batcher=batcher,
        metrics=metrics,
        default_tier=settings.default_tier,
        default_deadline_ms=settings.deadline_ms,
        max_pixels=settings.max_pixels,
    )


async def _load(service: Service, settings: Settings, engine: Engine) -> None:
    """Load every model and run every tier once; then the service is ready."""
    for setting in settings.models:
        model = await asyncio.to_thread(models.load, setting, engine.device)
        for tier in settings.warmup_tiers:
            variant = model.variant(*tiers.of_tier(model.limits, tier))
            await engine.warm_up(variant, model.input_size)
        _announce(service, model)
    service.lifecycle.loaded()
    logger.info("ready")


def _announce(service: Service, model: ServedModel) -> None:
    service.models.add(model)
    service.metrics.model_ready.labels(model.name).set(1)
    logger.info(
        "model ready name=%s architecture=%s num_classes=%d num_tokens=%d",
        model.name,
        model.architecture,
        len(model.labels),
        model.num_tokens,
    )


def _fail_with(
    task: asyncio.Task[None], lifecycle: Lifecycle, on_failure: Callable[[], None] | None
) -> None:
    """Turn the service red if one of its tasks has died."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    lifecycle.fail()
    logger.critical("the service cannot go on: %s", error, exc_info=error)
    if on_failure is not None:
        on_failure()
