"""Find the schedule that keeps most of a model's answers at a given cost, on unlabelled pictures.

How many tokens go in which block matters more than which ones. So: families of schedules first, on
a few pictures; the best ones with their options on more; then small moves. What is found is judged
on pictures that the search has not seen.
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
"""pictures on which all families are tried."""
NUM_FINALISTS = 2
NUM_MOVES = 2
SEARCHED_SHARE = 0.6
"""of the pictures; the others judge the result."""
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
    """What a search found."""

    candidate: Candidate
    macs_ratio: float
    """multiply-adds as a share of the unreduced model's; at most what was asked for."""
    agreement: float
    """share of the held-out pictures whose most probable class is the unreduced model's."""
    num_held_out: int


Memo = MutableMapping[str, list[float]]
"""Results so far, by candidate and picture set; give the same one again to resume a search."""


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
        form of the agreement: less noise in the choice between good candidates.
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
        """The best few, by overlap; of equal ones, the first."""
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
    """Search the schedule and the options of RAPID that keep most of a model's answers.

    Args:
        model: a timm `VisionTransformer`, not patched.
        images: (M, 3, S, S), at least 10, as the model wants them; labels are not needed. 60 % of
            them are searched on, the others judge the result.
        macs_ratio: share of the unreduced model's multiply-adds to stay below, in (0, 1].
        seed: of the shuffle of the pictures and of the small moves.
        memo: results of an interrupted search of the same pictures, to go on from; it is added to.
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
    """Families on a few pictures, finalists and their options on all, then small moves."""
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
    """Take some tokens from one block to another; refill or shrink to the budget."""
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
