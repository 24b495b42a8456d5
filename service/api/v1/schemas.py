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
    tiers: list[TierInfo]


class ModelList(BaseModel):
    """All loaded models; the first is the default."""

    models: list[ModelInfo]
