"""The parameters of a request, checked. Both APIs take them."""

from pydantic import BaseModel, ConfigDict, Field

from service.pipeline.request import Late, Wanted
from service.tiers import Tier

LONGEST_MS = 3_600_000
"""the longest latency budget or deadline, in milliseconds"""


class ClassifyParameters(BaseModel):
    """What a request may choose: as query string, form fields or JSON members."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="Name of a loaded model; default: the first one.")
    r: int | None = Field(
        None,
        json_schema_extra={"minimum": 0},
        description="Tokens to remove in every block, 0 ... half of the model's patches. "
        "Excludes `tier`, `min_tier` and `max_latency_ms`.",
    )
    tier: Tier | None = Field(
        None, description="How much of the network's work to do, from `exact` to `extreme`."
    )
    max_latency_ms: float | None = Field(
        None,
        gt=0,
        le=LONGEST_MS,
        description="Instead of a tier: take the most accurate one that is expected to answer "
        "within this time. If there is none, the fastest is taken.",
    )
    min_tier: Tier | None = Field(
        None,
        description="The least accurate tier that will do: under pressure, or to keep "
        "`max_latency_ms`, the service may go down to it, not further.",
    )
    priority: int = Field(
        0, ge=0, le=1, description="1: before everything that is not; 0: by deadline."
    )
    method: str = Field("rapid", description="Token-reduction method; GET /v1/models lists them.")
    top_k: int | None = Field(
        None,
        json_schema_extra={"minimum": 1},
        description="Number of labels, 1 ... the number of classes; default: 5, or all if fewer.",
    )
    late: Late = Field(
        "answer",
        description="What happens where `max_latency_ms` cannot be kept: `answer`: answer late; "
        "`refuse`: 429 with Retry-After, at once where that can be foreseen.",
    )
    deadline_ms: float | None = Field(
        None, gt=0, le=LONGEST_MS, description="Answer within this time or get 504."
    )

    def wanted(self) -> Wanted:
        """The same choices as the pipeline takes them."""
        return Wanted(**{name: getattr(self, name) for name in ClassifyParameters.model_fields})
