"""The walk of one image through the service. Read this file first."""

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass
from time import monotonic

from service import images, tiers
from service.admission import Admission
from service.batching import Answer, Batcher
from service.errors import DeadlineExceededError, InvalidParameterError
from service.lifecycle import Lifecycle
from service.metrics import CUSTOM_TIER, Metrics
from service.models import Models, ServedModel, Variant
from service.ranking import rank
from service.schemas import ClassifyParameters, ClassifyResponse, Timing, TokenCount
from service.tiers import Reduction, Tier

DEFAULT_TOP_K = 5


@dataclass(frozen=True)
class Service:
    """Everything that a request needs; built once in `app.py`."""

    models: Models
    lifecycle: Lifecycle
    admission: Admission
    decoders: Executor
    batcher: Batcher[Variant]
    metrics: Metrics
    default_tier: Tier
    default_deadline_ms: float
    max_pixels: int


async def classify(
    service: Service, image: bytes, wanted: ClassifyParameters, *, arrival: float, request_id: str
) -> ClassifyResponse:
    """Answer one image, for which the caller holds a place.

    Args:
        service: what runs here.
        image: the bytes of an image file.
        wanted: what the client chose.
        arrival: when the request came in, as `time.monotonic` told it.
        request_id: for the answer.

    Raises:
        ServiceError: one of its kinds, whenever there is no answer.
    """
    model, reduction = choose(service, wanted)
    variant = model.variant(*reduction)
    deadline = arrival + (wanted.deadline_ms or service.default_deadline_ms) / 1000
    try:
        # Not timeout_at: an event loop's clock may only count whole milliseconds.
        async with asyncio.timeout(deadline - monotonic()):
            started = monotonic()
            pixels = await asyncio.get_running_loop().run_in_executor(
                service.decoders, images.decode, image, _input_spec(service, model)
            )
            decode_s = monotonic() - started
            answer = await service.batcher.submit(variant, pixels, deadline)
    except TimeoutError as exc:
        raise DeadlineExceededError(
            f"not answered within {1000 * (deadline - arrival):g} ms; allow more time with "
            "deadline_ms, or choose a faster tier"
        ) from exc
    top_k = min(DEFAULT_TOP_K, len(model.labels)) if wanted.top_k is None else wanted.top_k
    predictions = rank(answer.logits, model.labels, top_k)
    _observe(service.metrics, model, reduction, answer, decode_s)
    return ClassifyResponse(
        model=model.name,
        method=reduction.method,
        tier=reduction.tier,
        r=reduction.r,
        schedule=list(variant.schedule),
        tokens=TokenCount(input=model.num_tokens, output=variant.num_output_tokens),
        predictions=predictions,
        macs_ratio=round(variant.macs / model.dense_macs, 4),
        timing_ms=Timing(
            decode=_ms(decode_s),
            queue=_ms(answer.queue_s),
            inference=_ms(answer.inference_s),
            total=_ms(monotonic() - arrival),
        ),
        batch_size=answer.batch_size,
        request_id=request_id,
    )


def choose(service: Service, wanted: ClassifyParameters) -> tuple[ServedModel, Reduction]:
    """The model and the reduction that a client means.

    Raises:
        ModelNotFoundError: no such model.
        InvalidParameterError: r, tier, method or top_k is not possible with this model.
    """
    model = service.models.find(wanted.model)
    if wanted.top_k is not None and not 1 <= wanted.top_k <= len(model.labels):
        raise InvalidParameterError(
            f"top_k = {wanted.top_k} is out of range; allowed for this model: "
            f"1 ... {len(model.labels)}"
        )
    reduction = tiers.resolve(
        model.limits,
        r=wanted.r,
        tier=wanted.tier,
        method=wanted.method,
        default_tier=service.default_tier,
    )
    return model, reduction


def _input_spec(service: Service, model: ServedModel) -> images.InputSpec:
    return images.InputSpec(model.transform, model.resize_side, service.max_pixels)


def _observe(
    metrics: Metrics, model: ServedModel, reduction: Reduction, answer: Answer, decode_s: float
) -> None:
    labels = (model.name, reduction.tier or CUSTOM_TIER)
    metrics.images.labels(*labels).inc()
    metrics.decode_seconds.labels(model.name).observe(decode_s)
    metrics.queue_seconds.labels(*labels).observe(answer.queue_s)
    metrics.inference_seconds.labels(*labels).observe(answer.inference_s)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
