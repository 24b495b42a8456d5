"""Outcome -> the native answer."""

from service.api.v1.schemas import ClassifyResponse, ExplainedChoice, Timing, TokenCount
from service.pipeline.classify import Outcome
from service.pipeline.ranking import rank

DEFAULT_TOP_K = 5


def answer(outcome: Outcome, top_k: int | None, request_id: str) -> ClassifyResponse:
    """Say what one image shows, what was run for it, and why."""
    model, variant, choice = outcome.plan.model, outcome.plan.variant, outcome.plan.choice
    computed = outcome.answer
    top_k = min(DEFAULT_TOP_K, len(model.labels)) if top_k is None else top_k
    return ClassifyResponse(
        model=model.name,
        method=choice.reduction.method,
        tier=choice.reduction.tier,
        r=choice.reduction.r,
        choice=ExplainedChoice(reason=choice.reason, expected_ms=_ms(choice.expected_s)),
        schedule=list(variant.schedule),
        tokens=TokenCount(input=model.num_tokens, output=variant.num_output_tokens),
        predictions=rank(computed.logits, model.labels, top_k),
        macs_ratio=model.macs_ratio(variant),
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
