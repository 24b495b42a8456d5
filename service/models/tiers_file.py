"""`tiers.json`: the calibrated tiers that lie beside a model."""

from pydantic import BaseModel, ConfigDict, Field

from service.tiers import Tier


class CalibratedTier(BaseModel):
    """A schedule and options of RAPID, found by `rapid calibrate` for one tier of one model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    r: tuple[int, ...] = Field(description="tokens to remove in each block")
    num_prune_blocks: int
    similarity_threshold: float
    importance_weight: float
    clamp_importance: bool
    macs_ratio: float
    agreement: float


class CalibrationFile(BaseModel):
    """`tiers.json`: the calibrated tiers of one model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str
    num_pictures: int
    num_held_out: int
    seed: int
    tiers: dict[Tier, CalibratedTier]
