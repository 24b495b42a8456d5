"""GET /v1/models: what is loaded, and what each tier means for it."""

from functools import partial

from fastapi import APIRouter, Depends

from service import tiers
from service.accuracy.counts import Share
from service.api import problems
from service.api.exchange import authorize
from service.api.v1.schemas import (
    MeasuredTier,
    ModelInfo,
    ModelList,
    ShareInfo,
    TierInfo,
    TokenCount,
)
from service.backends.contract import Variant
from service.models.served import ServedModel
from service.pipeline.classify import Service
from service.tiers import TIERS, Tier


def create_router(service: Service) -> APIRouter:
    """The routes, for one service."""
    router = APIRouter(tags=["models"], dependencies=[Depends(partial(authorize, service))])

    @router.get("/v1/models", responses=problems.documented(401, 503))
    async def list_models() -> ModelList:
        """All loaded models; the first is the default."""
        return ModelList(models=[_describe(service, model) for model in service.models])

    @router.get("/v1/models/{name:path}", responses=problems.documented(401, 404, 503))
    async def show_model(name: str) -> ModelInfo:
        """One loaded model."""
        return _describe(service, service.models.find(name))

    return router


def _describe(service: Service, model: ServedModel) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        architecture=model.architecture,
        input_size=list(model.input_size),
        num_classes=len(model.labels),
        num_tokens=model.num_tokens,
        num_blocks=model.limits.num_blocks,
        max_r=model.limits.max_r,
        methods=list(model.limits.methods),
        default_tier=service.default_tier,
        tiers=[_describe_tier(service, model, tier) for tier in TIERS],
    )


def _describe_tier(service: Service, model: ServedModel, tier: Tier) -> TierInfo:
    variant = model.variant(*tiers.of_tier(model.limits, tier))
    return TierInfo(
        tier=tier,
        method=variant.method,
        r=variant.r,
        schedule=list(variant.schedule),
        tokens=TokenCount(input=model.num_tokens, output=variant.num_output_tokens),
        gmacs=round(variant.macs / 1e9, 3),
        macs_ratio=model.macs_ratio(variant),
        agreement=model.agreement(tier),
        measured=_measured(model, tier),
        images_per_s=_images_per_s(service, variant),
    )


def _measured(model: ServedModel, tier: Tier) -> MeasuredTier | None:
    if (counts := model.measured.get(tier)) is None:
        return None
    return MeasuredTier(
        num_pictures=counts.num_pictures,
        top1=_share(counts.top1),
        top5=_share(counts.top5),
        agreement=_share(counts.agreement),
    )


def _share(share: Share) -> ShareInfo:
    return ShareInfo(**{name: round(part, 4) for name, part in share._asdict().items()})


def _images_per_s(service: Service, variant: Variant) -> float | None:
    seconds = service.computing.seconds(variant, service.max_batch_size)
    return round(service.max_batch_size / seconds, 1) if seconds else None
