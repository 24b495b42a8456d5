"""The path of a request's pictures through the service. Read this file first."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple

from torch import Tensor

from service.accuracy.shadow import Sample, Shadow
from service.backends.contract import Variant
from service.errors import (
    DeadlineExceededError,
    InferenceError,
    InvalidParameterError,
    ServiceError,
)
from service.images.pool import DecodePool
from service.models.catalog import Models
from service.models.served import ServedModel
from service.pipeline import choice, promises
from service.pipeline.admission import Admission, Place
from service.pipeline.brownout import Brownout
from service.pipeline.promises import Promises
from service.pipeline.request import (
    DEFAULT_TOP_K,
    Choice,
    Expected,
    Outcome,
    Picture,
    Plan,
    Wanted,
)
from service.scheduling.batcher import Batcher
from service.scheduling.jobs import Terms
from service.telemetry.events import CUSTOM_TIER, Call, ImageDone
from service.telemetry.record import Record
from service.tiers import Reduction, Tier


@dataclass(frozen=True)
class Defaults:
    """The choices for a request that makes none."""

    tier: Tier
    deadline_ms: float


class _Asked(NamedTuple):
    """What the forecast for a request depends on, besides its reduction."""

    model: ServedModel
    sizes: Sequence[int]
    """bytes of each image file"""
    terms: Terms


@dataclass(frozen=True)
class Pipeline:
    """The parts that a request passes through, in this order."""

    models: Models
    admission: Admission
    promises: Promises
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
        with self.admission.enter(num_images=len(pictures), owner=call.api_key) as place:
            outcomes = await asyncio.gather(
                *(self._classify_one(picture, plan, place, call) for picture in pictures),
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
            DeadlineExceededError: the service is busy, and idle it would be too slow as well.
        """
        model = self.models.find(wanted.model)
        call.model, call.num_images = model.name, len(pictures)
        top_k = _top_k(model, wanted.top_k)
        call.deadline_ms = wanted.deadline_ms or self.defaults.deadline_ms
        deadline = call.arrival + call.deadline_ms / 1000
        terms = promises.terms(wanted, call.arrival, deadline, call.api_key)
        sizes = [len(picture) for picture in pictures if isinstance(picture, bytes)]
        chosen, variant, forecast = self._choose(_Asked(model, sizes, terms), wanted, call)
        call.tier = chosen.reduction.tier or CUSTOM_TIER
        self.promises.chosen(wanted, call.api_key, forecast)
        if wanted.deadline_ms is not None:
            call.is_too_tight = _is_too_tight(self, variant, sizes, call)
        may_be_late = self.promises.may_be_late(forecast, terms, call.arrival)
        if may_be_late and self.batcher.is_busy:
            self._require_in_time(forecast, terms, call)
        call.reason = chosen.reason
        return Plan(model, variant, chosen, top_k, terms)

    def _choose(
        self, asked: _Asked, wanted: Wanted, call: Call
    ) -> tuple[Choice, Variant, Expected]:
        """The reduction of a request, what computes it, and the forecast that it was chosen by."""
        model, sizes, terms = asked
        decode_s = self.pool.decodings.expected_s(sizes, model.name)
        usual = self.promises.usual_share(wanted, call.api_key)
        forecasts: dict[Reduction, tuple[Variant, Expected]] = {}

        def expected(reduction: Reduction) -> Expected:
            variant = model.variant(*reduction)
            wait = self.batcher.expected_wait(variant, call.num_images, terms.due, terms.owner)
            seconds = monotonic() - call.arrival + decode_s + wait.seconds
            queue_s = max(0.0, wait.seconds - wait.alone_s)
            found = Expected(seconds, queue_s, wait.rest_s, wait.alone_s, usual)
            forecasts[reduction] = variant, found
            return found

        chosen = choice.choose(
            model.limits,
            wanted,
            default_tier=self.defaults.tier,
            brownout_level=self.brownout.level,
            expected=expected,
        )
        return chosen, *forecasts[chosen.reduction]

    def _require_in_time(self, forecast: Expected, terms: Terms, call: Call) -> None:
        """Refuse a request whose answer is expected too late.

        Raises:
            OverloadedError: it is.
            DeadlineExceededError: it would be on an idle service, too; a retry does not help.
        """
        over_s = self.promises.over_s(forecast, terms, call.arrival)
        if over_s <= 0:
            return
        if call.is_too_tight and not terms.refuses_late:
            raise _late(terms, call)
        what = "latency budget" if terms.refuses_late else "deadline"
        raise self.admission.refusal(
            f"an answer is expected after {1000 * forecast.seconds:.0f} ms, too late for a "
            f"{what} of {1000 * (terms.deadline - call.arrival):g} ms",
            over_s,
            forecast.work_s,
        )

    async def _classify_one(
        self, picture: Picture, plan: Plan, place: Place, call: Call
    ) -> Outcome:
        """Classify one picture that has been admitted."""
        terms = plan.terms
        try:
            # Not timeout_at: the clock of an event loop may count whole milliseconds only.
            async with asyncio.timeout(terms.deadline - monotonic()):
                try:
                    pixels, decode_s = await _pixels(self.pool, picture, plan)
                finally:
                    place.decoded()
                answer = await self.batcher.submit(
                    plan.variant, pixels, terms, on_start=call.started
                )
        except TimeoutError as exc:
            raise self._too_late(terms, call) from exc
        outcome = Outcome(plan, answer, decode_s, monotonic() - call.arrival)
        if not outcome.logits.isfinite().all():
            raise InferenceError("the model gave logits that are not finite")
        self.record.image_done(call, _event(outcome))
        if self.shadow is not None:
            self.shadow.offer(Sample(plan.model, plan.variant, call.tier, pixels, outcome.logits))
        return outcome

    def _too_late(self, terms: Terms, call: Call) -> ServiceError:
        """The error for an image that was let in and could not be answered in time."""
        if not terms.refuses_late:
            return _late(terms, call)
        over_s = self.batcher.backlog_s - (terms.deadline - call.arrival)
        budget_ms = 1000 * (terms.deadline - call.arrival)
        return self.admission.refusal(
            f"not answered within {budget_ms:g} ms, the latency budget", over_s, 0.0
        )


def _is_too_tight(pipeline: Pipeline, variant: Variant, sizes: Sequence[int], call: Call) -> bool:
    """Whether even an idle service would be too slow for the client's own deadline."""
    assert call.deadline_ms is not None
    decode_s = pipeline.pool.decodings.alone_s(sizes, variant.model)
    alone_s = decode_s + pipeline.batcher.alone_s(variant, call.num_images)
    expected_s = monotonic() - call.arrival + alone_s
    return expected_s > promises.PROMISED_SHARE * call.deadline_ms / 1000


async def _pixels(pool: DecodePool, picture: Picture, plan: Plan) -> tuple[Tensor, float]:
    """The pixels of a picture, and the seconds that decoding took."""
    if isinstance(picture, Tensor):
        return picture, 0.0
    model = plan.model
    return await pool.decode(picture, model.input_spec, model.name, plan.terms)


def _late(terms: Terms, call: Call) -> DeadlineExceededError:
    return DeadlineExceededError(
        f"not answered within {1000 * (terms.deadline - call.arrival):g} ms; allow more time with "
        "deadline_ms (under /v2: timeout), or choose a faster tier"
    )


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
