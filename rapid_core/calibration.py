"""Find the schedule that keeps most of a model's answers at a given cost, on unlabelled pictures.

How many tokens each block removes matters more than which tokens. So the search first compares
families of schedules, on a few pictures; then the options of the best schedules, on more pictures;
then small moves of tokens between blocks. The result is judged on pictures that the search has not
seen.
"""

import math
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from rapid_core.cost import macs, refine, schedule_macs
from rapid_core.errors import InvalidScheduleError
from rapid_core.patch import patch
from rapid_core.vit import VisionTransformer, check_model

NUM_SCREENED = 64
"""Pictures on which all families are tried."""
NUM_FINALISTS = 2
NUM_MOVES = 2
SEARCHED_SHARE = 0.6
"""Share of the pictures that is searched on; the others judge the result."""
BATCH_SIZE = 16


@dataclass(frozen=True)
class Candidate:
    """One way to reduce a model: a schedule and the options of RAPID."""

    r: tuple[int, ...]
    num_prune_blocks: int
    similarity_threshold: float = 0.7
    importance_weight: float = 50.0
    clamp_importance: bool = False

    def patch(self, model: nn.Module, *, prefix_only: bool) -> nn.Module:
        """The model, reduced this way."""
        return patch(model, method="rapid", prefix_only=prefix_only, **asdict(self))


class Calibration(NamedTuple):
    """The result of a search."""

    candidate: Candidate
    macs_ratio: float
    """multiply-adds as a share of the unreduced model's; at most the share asked for."""
    agreement: float
    """share of the held-out pictures whose most probable class is the unreduced model's."""
    num_held_out: int


Memo = MutableMapping[str, list[float]]
"""Results so far, by candidate and set of pictures. A search resumes from the memo given to it."""


@dataclass
class _Search:
    """The pictures, the unreduced model's answers, and every result so far."""

    model: nn.Module
    images: Tensor
    budget: float
    prefix_only: bool
    memo: Memo
    on_step: Callable[[str], None]
    dense: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.dense = _logits(self.model, self.images)

    def score(self, candidate: Candidate, pictures: range) -> tuple[float, float]:
        """(overlap, agreement) with the unreduced model on some pictures.

        The overlap Σ_k min(p_k, q_k) of the two distributions, averaged over pictures, is a smooth
        form of the agreement. It is less noisy, so the search compares candidates by it.
        """
        key = f"{candidate} {self.prefix_only} {pictures}"
        if key not in self.memo:
            part = slice(pictures.start, pictures.stop)
            reduced = candidate.patch(self.model, prefix_only=self.prefix_only)
            logits, dense = _logits(reduced, self.images[part]), self.dense[part]
            overlap = torch.minimum(logits.softmax(-1), dense.softmax(-1)).sum(-1).mean()
            agreement = (logits.argmax(-1) == dense.argmax(-1)).double().mean()
            self.memo[key] = [overlap.item(), agreement.item()]
            self.on_step(f"{len(pictures)} pictures: overlap {overlap:.4f} {candidate}")
        overlap_, agreement_ = self.memo[key]
        return overlap_, agreement_

    def best(self, candidates: list[Candidate], pictures: range, num_best: int) -> list[Candidate]:
        """The candidates with the highest overlap; of equal candidates, the first."""
        unique = list(dict.fromkeys(candidates))
        ranked = sorted(unique, key=lambda candidate: -self.score(candidate, pictures)[0])
        return ranked[:num_best]

    def fits(self, r: tuple[int, ...]) -> bool:
        """Whether a schedule stays within the budget."""
        vit = cast(VisionTransformer, self.model)
        return schedule_macs(vit, r, prefix_only=self.prefix_only) <= self.budget


def calibrate(  # noqa: PLR0913 - all but the first two are named options
    model: nn.Module,
    images: Tensor,
    *,
    macs_ratio: float,
    seed: int = 0,
    memo: Memo | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Search for the schedule and options of RAPID that keep most of a model's answers.

    Args:
        model: a timm `VisionTransformer`, not patched.
        images: (M, 3, S, S), at least 10, normalised for the model; labels are not needed. The
            search uses 60 % of them, the others judge the result.
        macs_ratio: share of the unreduced model's multiply-adds to stay below, in (0, 1].
        seed: of the shuffle of the pictures and of the small moves.
        memo: results of an interrupted search on the same pictures. The search adds to it.
        on_step: called with a line after each evaluation.

    Raises:
        UnsupportedModelError: the model cannot be reduced.
        InvalidScheduleError: `macs_ratio` cannot be reached, or there are too few pictures.

    Source: docs/calibration.md.
    """
    vit = check_model(model)
    if len(images) < 10:
        raise InvalidScheduleError(f"{len(images)} pictures are too few; give at least 10")
    random = Random(seed)
    order = random.sample(range(len(images)), len(images))
    search = _Search(
        model=model,
        images=images[order],
        budget=macs_ratio * macs(model),
        prefix_only=vit.global_pool == "token",
        memo={} if memo is None else memo,
        on_step=on_step,
    )
    searched = range(round(SEARCHED_SHARE * len(images)))
    held_out = range(searched.stop, len(images))
    found = _find(search, searched, random)
    reduced = found.patch(model, prefix_only=search.prefix_only)
    return Calibration(
        candidate=found,
        macs_ratio=macs(reduced) / macs(model),
        agreement=search.score(found, held_out)[1],
        num_held_out=len(held_out),
    )


def _find(search: _Search, pictures: range, random: Random) -> Candidate:
    """Try families on a few pictures, finalists and options on all of them, then small moves."""
    few = range(min(NUM_SCREENED, len(pictures)))
    L = len(cast(VisionTransformer, search.model).blocks)
    prunes = sorted({round(L * share) for share in (1 / 6, 1 / 4, 1 / 3)})
    candidates = [Candidate(r, prune) for r in _families(search) for prune in prunes]
    if not candidates:
        raise InvalidScheduleError(f"no schedule reaches {search.budget:.4g} multiply-adds")
    finalists = search.best(candidates, few, NUM_FINALISTS)
    finalists += [replace(candidate, clamp_importance=True) for candidate in finalists]
    (best,) = search.best(finalists, pictures, 1)
    (best,) = search.best([best, *_other_options(best, L)], pictures, 1)
    for _ in range(NUM_MOVES):
        moved = _move(best, search, random)
        (best,) = search.best([best, moved], pictures, 1)
    return best


def _families(search: _Search) -> Iterator[tuple[int, ...]]:
    """One schedule of each family, as close to the budget as whole tokens allow."""
    vit = cast(VisionTransformer, search.model)
    L, n = len(vit.blocks), vit.patch_embed.num_patches
    falls = [1 - block / max(L - 1, 1) for block in range(L)]
    shapes: list[Callable[[float], tuple[int, ...]]] = [
        lambda amount: (round(amount * n),) * L,
        lambda amount: tuple(round(2 * amount * n * fall) for fall in falls),
        lambda amount: tuple(round(3 * amount * n * fall**2) for fall in falls),
        lambda amount: tuple(round(1.5 * amount * n * math.sqrt(fall)) for fall in falls),
        lambda amount: _constant_share(amount, n, L),
    ]
    for shape in shapes:
        steps = 2 * n
        amounts = (step / (2 * steps) for step in range(steps + 1))
        r = next((r for r in map(shape, amounts) if search.fits(r)), None)
        if r is not None:
            yield refine(r, search.fits)


def _constant_share(share: float, num_patches: int, num_blocks: int) -> tuple[int, ...]:
    """Remove the same share of what is left in every block."""
    removed = []
    for _ in range(num_blocks):
        removed.append(int(share * num_patches))
        num_patches -= removed[-1]
    return tuple(removed)


def _other_options(best: Candidate, num_blocks: int) -> list[Candidate]:
    """Neighbours of a candidate that differ in one option."""
    prunes = [best.num_prune_blocks + step for step in (-1, 1)]
    return [
        *(replace(best, num_prune_blocks=prune) for prune in prunes if 0 <= prune <= num_blocks),
        *(replace(best, importance_weight=weight) for weight in (20.0, 100.0)),
        *(replace(best, similarity_threshold=threshold) for threshold in (0.6, 0.8)),
    ]


def _move(best: Candidate, search: _Search, random: Random) -> Candidate:
    """Move removals from one block to another, then fit the schedule to the budget again."""
    r = list(best.r)
    source, destination = random.sample(range(len(r)), 2)
    moved = min(r[source], random.randint(1, 4))
    r[source] -= moved
    r[destination] += moved
    while not search.fits(tuple(r)):
        r[random.randrange(len(r))] += 1
    return replace(best, r=refine(tuple(r), search.fits))


@torch.inference_mode()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """(M, K) in float64 on the CPU."""
    device = next(model.parameters()).device
    logits = [
        model(images[start : start + BATCH_SIZE].to(device)).double().cpu()
        for start in range(0, len(images), BATCH_SIZE)
    ]
    return torch.cat(logits)
