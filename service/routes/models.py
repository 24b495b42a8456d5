"""GET /v1/models: what is loaded, and what each tier means for it."""

from functools import partial

from fastapi import APIRouter, Depends

from service import tiers
from service.classify import Service
from service.models import ServedModel
from service.routes import problems
from service.routes.exchange import authorize
from service.schemas import ModelInfo, ModelList, TierInfo, TokenCount
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
        tiers=[_describe_tier(model, tier) for tier in TIERS],
    )


def _describe_tier(model: ServedModel, tier: Tier) -> TierInfo:
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
    )
