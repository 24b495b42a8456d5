"""The walk of a request's images through the service. Read this file first."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple

from torch import Tensor

from service.accuracy.shadow import Sample, Shadow
from service.api.v1.schemas import ClassifyParameters
from service.backends.contract import Variant
from service.errors import DeadlineExceededError, InferenceError, InvalidParameterError
from service.images.pool import Decoder
from service.models.catalog import Models
from service.models.served import ServedModel
from service.pipeline import choice
from service.pipeline.admission import Admission
from service.pipeline.api_keys import ApiKeys
from service.pipeline.brownout import Brownout
from service.pipeline.choice import Choice
from service.pipeline.request import Call
from service.runtime.lifecycle import Lifecycle
from service.scheduling.batcher import Batcher
from service.scheduling.forecast import Forecast
from service.scheduling.lanes import Answer
from service.telemetry.metrics import CUSTOM_TIER, Metrics
from service.tiers import Reduction, Tier

PROMISED_SHARE = 0.7
"""of a deadline: with work inside, a request that is expected to take longer is refused, because
a queue that is full to the last millisecond is late with every disturbance"""


@dataclass(frozen=True)
class Service:
    """Everything that a request needs; built once in `app.py`."""

    models: Models
    lifecycle: Lifecycle
    api_keys: ApiKeys
    admission: Admission
    decoder: Decoder
    batcher: Batcher[Variant]
    shadow: Shadow
    computing: Forecast
    """of the seconds to compute a batch of so many images"""
    brownout: Brownout
    metrics: Metrics
    default_tier: Tier
    default_deadline_ms: float
    max_batch_size: int


class Plan(NamedTuple):
    """What will happen to each image of a request."""

    model: ServedModel
    variant: Variant
    choice: Choice
    due: float
    """when it should be answered: the earliest goes first"""
    deadline: float
    """when its client stops waiting"""


class Outcome(NamedTuple):
    """What came out for one image."""

    plan: Plan
    answer: Answer
    decode_s: float
    total_s: float


async def classify(
    service: Service, pictures: Sequence[bytes | Tensor], wanted: ClassifyParameters, call: Call
) -> list[Outcome | BaseException]:
    """Answer all images of a request; one that fails leaves its neighbours alone.

    Args:
        service: what runs here.
        pictures: the bytes of image files, or finished pixels (3, H, W).
        wanted: what the client chose.
        call: the request; what is learnt on the way is noted in it.

    Returns:
        Outcome or error of each, in order.

    Raises:
        ServiceError: one of its kinds, if there is no answer for any of them.
    """
    plan = _plan(service, pictures, wanted, call)
    with service.admission.enter(num_images=len(pictures)):
        outcomes = await asyncio.gather(
            *(_classify_one(service, picture, plan, call) for picture in pictures),
            return_exceptions=True,
        )
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            call.num_failed += 1
            plan.model.statistics.failed(monotonic() - call.arrival)
    return outcomes


def _plan(
    service: Service, pictures: Sequence[bytes | Tensor], wanted: ClassifyParameters, call: Call
) -> Plan:
    """Choose the reduction; refuse at once what is impossible, or would come too late.

    Raises:
        ModelNotFoundError: no such model.
        InvalidParameterError: something is not possible with this model.
        OverloadedError: so much goes first that the deadline would pass.
    """
    model = service.models.find(wanted.model)
    call.model, call.num_images = model.name, len(pictures)
    _check_top_k(model, wanted.top_k)
    call.deadline_ms = wanted.deadline_ms or service.default_deadline_ms
    deadline = call.arrival + call.deadline_ms / 1000
    due = _due(wanted, call.arrival, deadline)
    sizes = [len(picture) for picture in pictures if isinstance(picture, bytes)]
    decode_s = service.decoder.expected_s(sizes, model)

    def expected_s(reduction: Reduction) -> float:
        variant = model.variant(*reduction)
        wait_s = service.batcher.expected_wait_s(variant, len(pictures), due)
        # What is still being decoded goes first too; of which tier it is does not matter much.
        wait_s += service.decoder.num_inside * service.computing.seconds(variant, 1)
        return monotonic() - call.arrival + decode_s + service.computing.caution * wait_s

    chosen = choice.choose(
        model.limits,
        wanted,
        default_tier=service.default_tier,
        brownout_level=service.brownout.level,
        expected_s=expected_s,
    )
    call.tier = chosen.reduction.tier or CUSTOM_TIER
    promised_s = PROMISED_SHARE * (deadline - call.arrival)
    if service.batcher.is_busy and chosen.expected_s > promised_s:
        raise service.admission.refusal(
            f"an answer is expected after {1000 * chosen.expected_s:.0f} ms, too late for a "
            f"deadline of {1000 * (deadline - call.arrival):g} ms"
        )
    service.metrics.choices.labels(call.model, call.tier, chosen.reason).inc()
    return Plan(model, model.variant(*chosen.reduction), chosen, due, deadline)


async def _classify_one(
    service: Service, picture: bytes | Tensor, plan: Plan, call: Call
) -> Outcome:
    """Answer one image, for which there is a place."""
    try:
        # Not timeout_at: an event loop's clock may only count whole milliseconds.
        async with asyncio.timeout(plan.deadline - monotonic()):
            pixels, decode_s = (
                (picture, 0.0)
                if isinstance(picture, Tensor)
                else await service.decoder.decode(picture, plan.model)
            )
            answer = await service.batcher.submit(
                plan.variant,
                pixels,
                due=plan.due,
                deadline=plan.deadline,
                on_start=call.started,
            )
    except TimeoutError as exc:
        raise DeadlineExceededError(
            f"not answered within {1000 * (plan.deadline - call.arrival):g} ms; allow more time "
            "with deadline_ms (under /v2: timeout), or choose a faster tier"
        ) from exc
    if not answer.logits.isfinite().all():
        raise InferenceError("the model gave logits that are not finite")
    outcome = Outcome(plan, answer, decode_s, monotonic() - call.arrival)
    _observe(service.metrics, call, outcome)
    service.shadow.offer(Sample(plan.model, plan.variant, call.tier, pixels, answer.logits))
    return outcome


def _due(wanted: ClassifyParameters, arrival: float, deadline: float) -> float:
    """When an answer is due: at once, when its latency budget ends, or at its deadline."""
    if wanted.priority == 1:
        return arrival
    if wanted.max_latency_ms is not None:
        return min(arrival + wanted.max_latency_ms / 1000, deadline)
    return deadline


def _check_top_k(model: ServedModel, top_k: int | None) -> None:
    if top_k is not None and not 1 <= top_k <= len(model.labels):
        raise InvalidParameterError(
            f"top_k = {top_k} is out of range; allowed for this model: 1 ... {len(model.labels)}"
        )


def _observe(metrics: Metrics, call: Call, outcome: Outcome) -> None:
    labels = (call.model, call.tier)
    answer = outcome.answer
    variant = outcome.plan.variant
    metrics.images.labels(*labels).inc()
    metrics.macs.labels(*labels).inc(variant.macs)
    metrics.tokens.labels(*labels, "kept").inc(variant.num_output_tokens)
    metrics.tokens.labels(*labels, "removed").inc(sum(variant.schedule))
    metrics.decode_seconds.labels(call.model).observe(outcome.decode_s)
    metrics.queue_seconds.labels(*labels).observe(answer.queue_s)
    metrics.inference_seconds.labels(*labels).observe(answer.inference_s)
    outcome.plan.model.statistics.answered(
        decode_s=outcome.decode_s, queue_s=answer.queue_s, inference_s=answer.inference_s
    )
    call.took(decode=outcome.decode_s, queue=answer.queue_s, inference=answer.inference_s)
