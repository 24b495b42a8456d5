"""The path of a request's pictures through the service. Read this file first."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from torch import Tensor

from service.accuracy.shadow import Sample, Shadow
from service.backends.contract import Variant
from service.errors import DeadlineExceededError, InferenceError, InvalidParameterError
from service.images.pool import DecodePool
from service.models.catalog import Models
from service.models.served import ServedModel
from service.pipeline import choice
from service.pipeline.admission import Admission
from service.pipeline.brownout import Brownout
from service.pipeline.request import DEFAULT_TOP_K, Outcome, Picture, Plan, Wanted
from service.scheduling.batcher import Batcher
from service.scheduling.jobs import Terms
from service.telemetry.events import CUSTOM_TIER, Call, ImageDone
from service.telemetry.record import Record
from service.tiers import Reduction, Tier

PROMISED_SHARE = 0.7
"""share of a deadline. While there is work inside, a request whose forecast is longer is refused:
in a queue without any reserve, each disturbance makes answers late."""


@dataclass(frozen=True)
class Defaults:
    """The choices for a request that makes none."""

    tier: Tier
    deadline_ms: float


@dataclass(frozen=True)
class Pipeline:
    """The parts that a request passes through, in this order."""

    models: Models
    admission: Admission
    brownout: Brownout
    pool: DecodePool
    batcher: Batcher[Variant]
    shadow: Shadow | None
    """compares a share of the answers; None: compares none"""
    record: Record
    defaults: Defaults

    async def classify(
        self, pictures: Sequence[Picture], wanted: Wanted, call: Call
    ) -> list[Outcome | BaseException]:
        """Classify all pictures of a request. One that fails does not affect the others.

        Args:
            pictures: image files, or pixels (3, H, W) as the model's own transform gives them.
            wanted: the choices of the client.
            call: the request; facts for its log line and metrics are added to it.

        Returns:
            Outcome or error of each, in order.

        Raises:
            ServiceError: one of its kinds, if there is no answer for any of them.
        """
        plan = self._plan(pictures, wanted, call)
        with self.admission.enter(num_images=len(pictures)):
            outcomes = await asyncio.gather(
                *(self._classify_one(picture, plan, call) for picture in pictures),
                return_exceptions=True,
            )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                self.record.image_failed(call)
        return outcomes

    def _plan(self, pictures: Sequence[Picture], wanted: Wanted, call: Call) -> Plan:
        """Choose the reduction; refuse at once a request that is impossible or would be late.

        Raises:
            ModelNotFoundError: no such model.
            InvalidParameterError: a choice is not possible with this model.
            OverloadedError: the work before it takes so long that the deadline would pass.
        """
        model = self.models.find(wanted.model)
        call.model, call.num_images = model.name, len(pictures)
        top_k = _top_k(model, wanted.top_k)
        call.deadline_ms = wanted.deadline_ms or self.defaults.deadline_ms
        deadline = call.arrival + call.deadline_ms / 1000
        due = _due(wanted, call.arrival, deadline)
        sizes = [len(picture) for picture in pictures if isinstance(picture, bytes)]
        decode_s = self.pool.decodings.expected_s(sizes, model.name)
        variants: dict[Reduction, Variant] = {}

        def expected_s(reduction: Reduction) -> float:
            variants[reduction] = variant = model.variant(*reduction)
            wait_s = self.batcher.expected_wait_s(variant, len(pictures), due)
            return monotonic() - call.arrival + decode_s + wait_s

        chosen = choice.choose(
            model.limits,
            wanted,
            default_tier=self.defaults.tier,
            brownout_level=self.brownout.level,
            expected_s=expected_s,
        )
        call.tier = chosen.reduction.tier or CUSTOM_TIER
        promised_s = PROMISED_SHARE * (deadline - call.arrival)
        if chosen.expected_s > promised_s and self.batcher.is_busy:
            raise self.admission.refusal(
                f"an answer is expected after {1000 * chosen.expected_s:.0f} ms, too late for a "
                f"deadline of {1000 * (deadline - call.arrival):g} ms"
            )
        call.reason = chosen.reason
        return Plan(model, variants[chosen.reduction], chosen, top_k, due, deadline)

    async def _classify_one(self, picture: Picture, plan: Plan, call: Call) -> Outcome:
        """Classify one picture that has been admitted."""
        try:
            # Not timeout_at: the clock of an event loop may count whole milliseconds only.
            async with asyncio.timeout(plan.deadline - monotonic()):
                pixels, decode_s = await self._pixels(picture, plan.model)
                answer = await self.batcher.submit(
                    plan.variant,
                    pixels,
                    Terms(plan.due, plan.deadline),
                    on_start=call.started,
                )
        except TimeoutError as exc:
            raise DeadlineExceededError(
                f"not answered within {1000 * (plan.deadline - call.arrival):g} ms; allow more "
                "time with deadline_ms (under /v2: timeout), or choose a faster tier"
            ) from exc
        outcome = Outcome(plan, answer, decode_s, monotonic() - call.arrival)
        if not outcome.logits.isfinite().all():
            raise InferenceError("the model gave logits that are not finite")
        self.record.image_done(call, _event(outcome))
        if self.shadow is not None:
            self.shadow.offer(Sample(plan.model, plan.variant, call.tier, pixels, outcome.logits))
        return outcome

    async def _pixels(self, picture: Picture, model: ServedModel) -> tuple[Tensor, float]:
        if isinstance(picture, Tensor):
            return picture, 0.0
        return await self.pool.decode(picture, model.input_spec, model.name)


def _due(wanted: Wanted, arrival: float, deadline: float) -> float:
    """When an answer is due: at its arrival, the end of its latency budget, or its deadline."""
    if wanted.priority == 1:
        return arrival
    if wanted.max_latency_ms is not None:
        return min(arrival + wanted.max_latency_ms / 1000, deadline)
    return deadline


def _top_k(model: ServedModel, top_k: int | None) -> int:
    """Number of labels to answer with.

    Raises:
        InvalidParameterError: the model has fewer labels.
    """
    num_classes = len(model.labels)
    if top_k is None:
        return min(DEFAULT_TOP_K, num_classes)
    if not 1 <= top_k <= num_classes:
        raise InvalidParameterError(
            f"top_k = {top_k} is out of range; allowed for this model: 1 ... {num_classes}"
        )
    return top_k


def _event(outcome: Outcome) -> ImageDone:
    variant, answer = outcome.plan.variant, outcome.answer
    return ImageDone(
        macs=variant.macs,
        num_kept=variant.num_output_tokens,
        num_removed=sum(variant.schedule),
        decode_s=outcome.decode_s,
        queue_s=answer.queue_s,
        inference_s=answer.inference_s,
    )
