"""GET /v1/models: what is loaded, and what each tier means for it."""

from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial

from fastapi import APIRouter, Depends

from service.accuracy import counts
from service.accuracy.counts import Share
from service.accuracy.probe_cache import Found
from service.api import problems
from service.api.exchange import authorize
from service.api.v1.schemas import (
    MeasuredTier,
    ModelInfo,
    ModelList,
    PrecisionChoice,
    ShareInfo,
    TierInfo,
    TokenCount,
    TriedPrecision,
)
from service.backends.contract import Variant
from service.models.served import ServedModel
from service.runtime.runtime import Runtime
from service.telemetry.events import WayChosen, WayTried
from service.tiers import TIERS, Tier


def create_router(runtime: Runtime) -> APIRouter:
    """The routes, for one runtime."""
    router = APIRouter(tags=["models"], dependencies=[Depends(partial(authorize, runtime))])

    @router.get("/v1/models", responses=problems.documented(401, 503))
    async def list_models() -> ModelList:
        """All loaded models; the first is the default."""
        return ModelList(models=[_describe(runtime, model) for model in runtime.models])

    @router.get("/v1/models/{name:path}", responses=problems.documented(401, 404, 503))
    async def show_model(name: str) -> ModelInfo:
        """One loaded model."""
        return _describe(runtime, runtime.models.find(name))

    return router


def _describe(runtime: Runtime, model: ServedModel) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        architecture=model.architecture,
        input_size=list(model.input_size),
        num_classes=len(model.labels),
        num_tokens=model.num_tokens,
        num_blocks=model.limits.num_blocks,
        max_r=model.limits.max_r,
        methods=list(model.limits.methods),
        default_tier=runtime.settings.default_tier,
        backend=runtime.ways[model.name].backend,
        precision=runtime.ways[model.name].precision,
        precision_choice=_describe_choice(runtime.ways[model.name]),
        tiers=[_describe_tier(runtime, model, tier) for tier in TIERS],
    )


def _describe_choice(way: WayChosen) -> PrecisionChoice:
    tried = [_describe_tried(one) for one in way.tried]
    return PrecisionChoice(reason=way.reason, is_remembered=way.is_remembered, tried=tried)


def _describe_tried(tried: WayTried) -> TriedPrecision:
    about = asdict(tried)
    for name in ("num_agreeing", "seconds"):
        del about[name]
    total = tried.num_pictures
    return TriedPrecision(
        **about, agreement=_share(counts.share(tried.num_agreeing, total)) if total else None
    )


def _describe_tier(runtime: Runtime, model: ServedModel, tier: Tier) -> TierInfo:
    variant = model.at(tier)
    return TierInfo(
        tier=tier,
        method=variant.method,
        r=variant.r,
        schedule=list(variant.schedule),
        tokens=TokenCount(input=model.num_tokens, output=variant.num_output_tokens),
        gmacs=round(variant.macs / 1e9, 3),
        macs_ratio=variant.macs_ratio,
        agreement=model.agreement(tier),
        measured=_measured(runtime.probe.latest(model.name), tier),
        images_per_s=_images_per_s(runtime, variant),
    )


def _measured(found: Found | None, tier: Tier) -> MeasuredTier | None:
    if found is None:
        return None
    measured = found.tiers[tier]
    return MeasuredTier(
        num_pictures=measured.num_pictures,
        is_complete=found.is_complete,
        measured_at=datetime.fromtimestamp(int(found.finished), UTC),
        top1=_share(measured.top1),
        top5=_share(measured.top5),
        agreement=_share(measured.agreement),
    )


def _share(share: Share) -> ShareInfo:
    return ShareInfo(**{name: round(part, 4) for name, part in share._asdict().items()})


def _images_per_s(runtime: Runtime, variant: Variant) -> float | None:
    max_batch_size = runtime.settings.max_batch_size
    seconds = runtime.forecast.seconds(variant, max_batch_size)
    return round(max_batch_size / seconds, 1) if seconds else None
