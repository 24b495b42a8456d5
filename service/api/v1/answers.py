"""Outcome -> the native answer."""

from service.api.v1.schemas import (
    ClassifyResponse,
    ExplainedChoice,
    Prediction,
    Timing,
    TokenCount,
)
from service.pipeline.request import Outcome


def answer(outcome: Outcome, request_id: str) -> ClassifyResponse:
    """The labels of one image, the reduction that was run for it, and why."""
    model, variant, choice = outcome.plan.model, outcome.plan.variant, outcome.plan.choice
    computed = outcome.answer
    return ClassifyResponse(
        model=model.name,
        method=choice.reduction.method,
        tier=choice.reduction.tier,
        r=choice.reduction.r,
        choice=ExplainedChoice(reason=choice.reason, expected_ms=_ms(choice.expected_s)),
        schedule=list(variant.schedule),
        tokens=TokenCount(input=model.num_tokens, output=variant.num_output_tokens),
        predictions=[Prediction(**vars(best)) for best in outcome.predictions],
        macs_ratio=variant.macs_ratio,
        timing_ms=Timing(
            decode=_ms(outcome.decode_s),
            queue=_ms(computed.queue_s),
            inference=_ms(computed.inference_s),
            total=_ms(outcome.total_s),
        ),
        batch_size=computed.batch_size,
        request_id=request_id,
    )


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
