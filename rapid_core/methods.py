"""The methods: which decision each block takes. One class per method.

A method is a frozen set of options. Its `plan` fits it to a model: how many tokens each block
removes, and by which of the `planners`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple, Protocol

from rapid_core import planners
from rapid_core.errors import InvalidScheduleError
from rapid_core.planners import InputPlanner, Planner, Remember, TokenLayout
from rapid_core.schedule import Reductions, parse_r, removable


class ReductionPlan(NamedTuple):
    """A method, ready for one model."""

    schedule: tuple[int, ...]
    """tokens to remove in each block."""
    planners: Sequence[Planner]
    """one per block."""
    remember: Remember | None = None
    num_removed_at_input: int = 0
    at_input: InputPlanner | None = None


class Method(Protocol):
    """A way to decide which tokens go; its fields are its options."""

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        """Fit the method to a model.

        Args:
            r: tokens to remove per block, or one number per block.
            layout: of the model.

        Raises:
            InvalidScheduleError: `r` or an option does not fit the model.
        """


@dataclass(frozen=True)
class Rapid:
    """Prune redundant tokens in the early blocks, merge unimportant ones later.

    Source: RAPID (arXiv 2606.08156), Eq. 1 to 4.
    """

    similarity_threshold: float = 0.7
    """τ of Eq. 1, finite."""
    num_prune_blocks: int | None = None
    """leading blocks that prune, 0 ... number of blocks; None: the first third, rounded down."""
    importance_weight: float = 50.0
    """λ of Eq. 2, finite."""
    importance_top: float = 0.2
    """share of the patches at or above τ_A, in (0, 1]; it has an effect only when clamped."""
    clamp_importance: bool = False
    """False: Eq. 2 as printed. True: λ·max(A - τ_A, 0), which treats the less important alike."""

    def __post_init__(self) -> None:
        for name in ("similarity_threshold", "importance_weight", "importance_top"):
            _require_number(name, getattr(self, name))
        if not 0 < self.importance_top <= 1:
            raise InvalidScheduleError(
                f"importance_top = {self.importance_top!r} must lie in (0, 1]"
            )

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        num_prune = _num_prune_blocks(self.num_prune_blocks, layout, default=layout.num_blocks // 3)
        prune: Planner = partial(
            planners.prune_redundant, layout=layout, threshold=self.similarity_threshold
        )
        merge: Planner = partial(
            planners.merge_unimportant,
            layout=layout,
            weight=self.importance_weight,
            clamp_to_top=self.importance_top if self.clamp_importance else None,
        )
        steps = [prune] * num_prune + [merge] * (layout.num_blocks - num_prune)
        return ReductionPlan(parse_r(r, layout.num_blocks), steps)


@dataclass(frozen=True)
class ToMe:
    """Merge the most similar tokens in every block.

    Source: Bolya et al. 2023, Token Merging: Your ViT But Faster (arXiv 2210.09461).
    """

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        merge: Planner = partial(planners.merge_similar, layout=layout)
        return ReductionPlan(parse_r(r, layout.num_blocks), [merge] * layout.num_blocks)


@dataclass(frozen=True)
class ToFu:
    """ToMe's choice; early blocks drop the chosen tokens, later blocks merge them by MLERP.

    Source: Kim et al. 2024, Token Fusion (arXiv 2312.01026).
    """

    num_prune_blocks: int | None = None
    """leading blocks that drop, 0 ... number of blocks; None: the first half, rounded down."""

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        num_prune = _num_prune_blocks(self.num_prune_blocks, layout, default=layout.num_blocks // 2)
        drop: Planner = partial(planners.drop_similar, layout=layout)
        merge: Planner = partial(planners.merge_by_mlerp, layout=layout)
        steps = [drop] * num_prune + [merge] * (layout.num_blocks - num_prune)
        return ReductionPlan(parse_r(r, layout.num_blocks), steps)


@dataclass(frozen=True)
class PatchSimilarity:
    """Drop the patches that resemble all the others most.

    Source: Patch Similarity pruning (preprints.org 202504.0596); the diversity term is our reading.
    """

    at_input: bool = False
    """False: in every block. True: once, before the first block, as many as r would in all blocks
    together, but at most half of the patches."""
    diversity: float = 0.0
    """weight of the term that keeps pruned patches from clustering, >= 0; 0 is off."""
    prune_ratio: float | None = None
    """share of the patches to drop, in [0, 0.5]; instead of r. In every block the same number, or
    all at the input. `scoring.share_above` turns a threshold of redundancy into it."""

    def __post_init__(self) -> None:
        _require_number("diversity", self.diversity)
        if self.prune_ratio is not None:
            _require_number("prune_ratio", self.prune_ratio)
            if not 0 <= self.prune_ratio <= 0.5:
                raise InvalidScheduleError(
                    f"prune_ratio = {self.prune_ratio!r} must lie in [0, 0.5]"
                )
        if self.diversity < 0:
            raise InvalidScheduleError(f"diversity = {self.diversity!r} must be >= 0")

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        if self.diversity and not layout.is_grid_fixed:
            raise InvalidScheduleError(
                "diversity needs to know where the patches lie; this model takes images of any size"
            )
        schedule = parse_r(r, layout.num_blocks)
        if self.prune_ratio is not None:
            num_dropped = math.floor(self.prune_ratio * math.prod(layout.grid_size))
            schedule = _spread_evenly(num_dropped, layout.num_blocks)
        drop: Planner = partial(
            planners.drop_redundant_patches, layout=layout, diversity=self.diversity
        )
        steps = [drop] * layout.num_blocks
        if not self.at_input:
            remember = planners.remember_positions if self.diversity else None
            return ReductionPlan(schedule, steps, remember)
        return ReductionPlan(
            (0,) * layout.num_blocks,
            steps,
            num_removed_at_input=min(
                sum(schedule), removable(layout.num_tokens, layout.num_prefix_tokens)
            ),
            at_input=partial(
                planners.drop_redundant_inputs, layout=layout, diversity=self.diversity
            ),
        )


@dataclass(frozen=True)
class EViT:
    """Keep the patches that the CLS token attends to, at a quarter, half, three quarters of depth.

    With an integer r, these three blocks together remove what r in every block would; with a list,
    every block removes its own number. Used without the training of the paper.

    Source: Liang et al. 2022, EViT (arXiv 2202.07800).
    """

    fuse: bool = False
    """True: the dropped tokens' attention-weighted sum stays as one more token."""
    keep_rate: float | None = None
    """share of the patch tokens that each of the three blocks keeps, in [0.5, 1]; instead of r."""

    def __post_init__(self) -> None:
        if self.keep_rate is not None:
            _require_number("keep_rate", self.keep_rate)
            if not 0.5 <= self.keep_rate <= 1:
                raise InvalidScheduleError(f"keep_rate = {self.keep_rate!r} must lie in [0.5, 1]")

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        planner: Planner = partial(planners.keep_attended, layout=layout, fuse=self.fuse)
        schedule = parse_r(r, layout.num_blocks)
        if not isinstance(r, Sequence):
            schedule = self._at_three_blocks(schedule[0], layout)
        elif self.keep_rate is not None:
            raise InvalidScheduleError("keep_rate and a list r exclude each other; give one")
        return ReductionPlan(schedule, [planner] * layout.num_blocks)

    def _at_three_blocks(self, r: int, layout: TokenLayout) -> tuple[int, ...]:
        L, num_left = layout.num_blocks, layout.num_tokens - layout.num_prefix_tokens
        places = sorted({L // 4, L // 2, 3 * L // 4})
        removed = [0] * L
        for place in places:
            removed[place] = round(r * L / len(places))
            if self.keep_rate is not None:
                num_kept = math.ceil(self.keep_rate * num_left) + self.fuse
                removed[place] = max(num_left - num_kept, 0)
            num_left -= min(removed[place], num_left // 2)
        return tuple(removed)


@dataclass(frozen=True)
class AttentionRollout:
    """Drop the patches that the CLS token has looked at least, through all blocks so far.

    Needs the whole attention matrix of every block: a control for quality, not for speed.

    Source: Abnar and Zuidema 2020 (arXiv 2005.00928).
    """

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        drop: Planner = partial(planners.drop_rolled_out, layout=layout)
        steps = [drop] * layout.num_blocks
        return ReductionPlan(parse_r(r, layout.num_blocks), steps, planners.remember_rollout)


@dataclass(frozen=True)
class Random:
    """Drop patches at random: the control that every method has to beat.

    The choice depends on the seed, the block and the number of tokens, not on the image or the
    batch: the same image gives the same logits anywhere.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int):
            raise InvalidScheduleError(f"seed = {self.seed!r} must be an integer")

    def plan(self, r: Reductions, layout: TokenLayout) -> ReductionPlan:
        steps: list[Planner] = [
            partial(
                planners.drop_at_random,
                num_prefix_tokens=layout.num_prefix_tokens,
                seed=self.seed * layout.num_blocks + block,
            )
            for block in range(layout.num_blocks)
        ]
        return ReductionPlan(parse_r(r, layout.num_blocks), steps)


METHODS: Mapping[str, type[Method]] = {
    "rapid": Rapid,
    "tome": ToMe,
    "tofu": ToFu,
    "patch_similarity": PatchSimilarity,
    "evit": EViT,
    "attention_rollout": AttentionRollout,
    "random": Random,
}


def create_method(name: str, options: Mapping[str, object]) -> Method:
    """Build a method from its name and options.

    Raises:
        InvalidScheduleError: no such method or option, or a value out of range.
    """
    if name not in METHODS:
        raise InvalidScheduleError(f"unknown method {name!r}; there are: {', '.join(METHODS)}")
    method = METHODS[name]
    known = [field.name for field in fields(method)]  # type: ignore[arg-type]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InvalidScheduleError(
            f"method {name!r} has no option {unknown[0]!r}; it has: {', '.join(known) or 'none'}"
        )
    return method(**options)


def _num_prune_blocks(wanted: int | None, layout: TokenLayout, *, default: int) -> int:
    if wanted is None:
        return default
    if not isinstance(wanted, int) or not 0 <= wanted <= layout.num_blocks:
        raise InvalidScheduleError(
            f"num_prune_blocks = {wanted!r} must be an integer in 0 ... {layout.num_blocks}, the "
            "number of blocks"
        )
    return wanted


def _spread_evenly(num_removed: int, num_blocks: int) -> tuple[int, ...]:
    """The same number in every block, the rest one by one in the first."""
    each, rest = divmod(num_removed, num_blocks)
    return tuple(each + (block < rest) for block in range(num_blocks))


def _require_number(name: str, value: object) -> None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidScheduleError(f"{name} = {value!r} must be a finite number")
