"""The methods: which scoring and selection each block uses. One class per method.

A method is a frozen set of options. Its `planners` say, for every block, how the block's
attention becomes a plan; what a plan does to the tokens is `reduction.py`'s business.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple, Protocol

from torch import Tensor

from rapid_core import scoring, selection
from rapid_core.attention import AttentionPass, attention_received, cls_attention
from rapid_core.errors import InvalidScheduleError
from rapid_core.selection import MergePlan, Plan, PrunePlan

Planner = Callable[[AttentionPass, int], Plan]
"""What one block does: (its attention pass, number of tokens to remove >= 1) -> plan."""


class TokenLayout(NamedTuple):
    """What a method needs to know of a model."""

    num_blocks: int
    num_prefix_tokens: int
    has_class_token: bool


class Method(Protocol):
    """A way to decide which tokens go; its fields are its options."""

    def planners(self, layout: TokenLayout) -> list[Planner]:
        """One planner per block.

        Raises:
            InvalidScheduleError: an option does not fit the model.
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
            number = getattr(self, name)
            if not isinstance(number, int | float) or not math.isfinite(number):
                raise InvalidScheduleError(f"{name} = {number!r} must be a finite number")
        if not 0 < self.importance_top <= 1:
            raise InvalidScheduleError(
                f"importance_top = {self.importance_top!r} must lie in (0, 1]"
            )

    def planners(self, layout: TokenLayout) -> list[Planner]:
        num_prune = self.num_prune_blocks
        if num_prune is None:
            num_prune = layout.num_blocks // 3
        if not isinstance(num_prune, int) or not 0 <= num_prune <= layout.num_blocks:
            raise InvalidScheduleError(
                f"num_prune_blocks = {num_prune!r} must be an integer in 0 ... "
                f"{layout.num_blocks}, the number of blocks"
            )
        prune: Planner = partial(
            prune_redundant,
            num_prefix_tokens=layout.num_prefix_tokens,
            threshold=self.similarity_threshold,
        )
        merge: Planner = partial(merge_unimportant, layout=layout, options=self)
        return [prune] * num_prune + [merge] * (layout.num_blocks - num_prune)


@dataclass(frozen=True)
class ToMe:
    """Merge the most similar tokens in every block.

    Source: Bolya et al. 2023, Token Merging: Your ViT But Faster (arXiv 2210.09461).
    """

    def planners(self, layout: TokenLayout) -> list[Planner]:
        merge: Planner = partial(merge_similar, num_prefix_tokens=layout.num_prefix_tokens)
        return [merge] * layout.num_blocks


METHODS: Mapping[str, type[Method]] = {"rapid": Rapid, "tome": ToMe}


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


def prune_redundant(
    attention: AttentionPass, num_removed: int, *, num_prefix_tokens: int, threshold: float
) -> PrunePlan:
    """RAPID, stage R: drop the sources that the destinations repeat most (Eq. 1)."""
    similarities = scoring.similarity(attention.keys, num_prefix_tokens)
    return selection.plan_prune(
        scoring.redundancy(similarities, threshold),
        similarities.mean(dim=-1),
        num_removed=num_removed,
        num_tokens=attention.keys.shape[2],
        num_prefix_tokens=num_prefix_tokens,
    )


def merge_unimportant(
    attention: AttentionPass, num_removed: int, *, layout: TokenLayout, options: Rapid
) -> MergePlan:
    """RAPID, stage I: merge the sources that are similar and unimportant (Eq. 2 to 4)."""
    best_similarity, destination = _best_match(attention, layout.num_prefix_tokens)
    importance = (cls_attention if layout.has_class_token else attention_received)(attention)
    importance = importance.to(best_similarity.dtype)
    if options.clamp_importance:
        patches = importance[:, layout.num_prefix_tokens :]
        cutoff = scoring.importance_cutoff(patches, options.importance_top)
        importance = (importance - cutoff).clamp(min=0)
    return selection.plan_merge(
        scoring.merge_score(
            best_similarity,
            scoring.sources(importance, layout.num_prefix_tokens),
            options.importance_weight,
        ),
        destination,
        num_removed=num_removed,
        num_tokens=attention.keys.shape[2],
        num_prefix_tokens=layout.num_prefix_tokens,
    )


def merge_similar(
    attention: AttentionPass, num_removed: int, *, num_prefix_tokens: int
) -> MergePlan:
    """ToMe: merge the sources that are most similar to their best destination."""
    best_similarity, destination = _best_match(attention, num_prefix_tokens)
    return selection.plan_merge(
        best_similarity,
        destination,
        num_removed=num_removed,
        num_tokens=attention.keys.shape[2],
        num_prefix_tokens=num_prefix_tokens,
    )


def _best_match(attention: AttentionPass, num_prefix_tokens: int) -> tuple[Tensor, Tensor]:
    """Each source's highest similarity and whose it is: (B, S) and (B, S), ties to the lowest."""
    similarities = scoring.similarity(attention.keys, num_prefix_tokens)
    # argmax promises the first of equal values; max(dim) does not.
    destination = similarities.argmax(dim=-1)
    return similarities.gather(-1, destination[..., None])[..., 0], destination
