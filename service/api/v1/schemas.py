"""The JSON that goes in and out."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from service.api.parameters import ClassifyParameters
from service.api.problems import Problem


class ImageJson(ClassifyParameters):
    """A JSON request: one image and the parameters."""

    image: str = Field(description="The image file in base64, or as a data URI.")


class Prediction(BaseModel):
    """One label."""

    label: str
    index: int
    probability: Annotated[float, Field(ge=0, le=1)]


class TokenCount(BaseModel):
    """Tokens before the first block and after the last."""

    input: int
    output: int


class Timing(BaseModel):
    """Where the time went, in milliseconds."""

    decode: float
    queue: float
    inference: float
    total: float


class ExplainedChoice(BaseModel):
    """Why this reduction was run."""

    reason: str = Field(
        description="`requested`, `default`, `latency_budget`, `latency_budget_missed` (no tier "
        "was expected in time), or `brownout`"
    )
    expected_ms: float = Field(description="forecast of the time to the answer")


class ClassifyResponse(BaseModel):
    """The answer for one image."""

    model: str
    method: str
    tier: str | None = Field(description="null where the request named r itself")
    r: int | None = Field(description="null where the schedule is not constant")
    choice: ExplainedChoice
    schedule: list[int] = Field(description="tokens that each block removed")
    tokens: TokenCount
    predictions: list[Prediction]
    macs_ratio: float = Field(description="multiply-adds, as a share of the unreduced model's")
    timing_ms: Timing
    batch_size: int = Field(description="images that shared the batch")
    request_id: str


class ClassifyManyResponse(BaseModel):
    """The answers for several images of one request, in their order."""

    results: list[ClassifyResponse | Problem]


class ShareInfo(BaseModel):
    """A share of some pictures, with its 95 % Wilson interval."""

    value: float
    low: float
    high: float


class MeasuredTier(BaseModel):
    """What the last probe found, in this process or in an earlier one on the same machine."""

    num_pictures: int
    is_complete: bool = Field(
        description="false: the first pictures of the first probe, which goes on"
    )
    measured_at: datetime
    top1: ShareInfo = Field(description="best answer is the label")
    top5: ShareInfo = Field(description="label is among the five best answers")
    agreement: ShareInfo = Field(description="best answer is the unreduced model's")


class TierInfo(BaseModel):
    """What a tier means for one model."""

    tier: str
    method: str
    r: int | None
    schedule: list[int]
    tokens: TokenCount
    gmacs: float
    macs_ratio: float
    agreement: float | None = Field(
        description="share of held-out pictures with the unreduced model's answer, from the "
        "calibration; null for a tier without one"
    )
    measured: MeasuredTier | None = Field(
        description="on the labelled probe pictures; null until they have been run"
    )
    images_per_s: float | None = Field(
        description="expected of this device in full batches; null until the tier has run"
    )


class TriedPrecision(BaseModel):
    """One precision that was tried for a model, and what it gave."""

    backend: str
    precision: str
    verdict: str = Field(
        description="`chosen`, or why not: `slower`; `agreement`, its answers are others; `top1`, "
        "it is right less often; `failed`, it cannot compute the model"
    )
    images_per_s: dict[str, float] = Field(
        description="of the whole device, by tier; empty where it was not timed"
    )
    speed_up: float | None = Field(description="over float32; null where it was not timed")
    num_pictures: int = Field(description="it was compared with float32 on so many; 0: it was not")
    agreement: ShareInfo | None = Field(
        description="share of the pictures that `exact` answers as in float32"
    )
    kept: dict[str, float] = Field(
        description="share of the pictures that a tier answers as `exact` does in float32, by tier"
    )
    top1: dict[str, float] = Field(
        description="share of the pictures whose best answer is the label, by tier"
    )


class PrecisionChoice(BaseModel):
    """Why a model computes in its precision."""

    reason: str = Field(
        description="`setting`: a setting names it; `only`: this processor has no other; "
        "`fastest`: of those that answer as float32 does; `agreement`: faster ones answer "
        "otherwise; `device`: a GPU computes in 16 bits; `failed`: nothing could be tried"
    )
    is_remembered: bool = Field(description="whether an earlier start has tried")
    tried: list[TriedPrecision]


class ModelInfo(BaseModel):
    """One loaded model."""

    name: str
    architecture: str
    input_size: list[int] = Field(description="channels, height, width")
    num_classes: int
    num_tokens: int
    num_blocks: int
    max_r: int
    methods: list[str]
    default_tier: str
    backend: str = Field(description="the library that computes")
    precision: str = Field(description="in which all tiers compute, `exact` among them")
    precision_choice: PrecisionChoice
    tiers: list[TierInfo]


class ModelList(BaseModel):
    """All loaded models; the first is the default."""

    models: list[ModelInfo]
