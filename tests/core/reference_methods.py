"""The methods of the reference: which tokens of a block go, and what becomes of them.

Two families. By matching (RAPID, ToMe, ToFu): sources and destinations, a source is dropped or
joins its destination. By ranking (the others): any patches are dropped, the lowest first.

Sources: arXiv 2606.08156 (RAPID) eq. 1-4; Bolya et al. 2023 (Token Merging) section 3; Kim et al.
2024 (Token Fusion) sections 3.1-3.2; Liang et al. 2022 (EViT) section 3; preprints 202504.0596
(Patch Similarity); Abnar and Zuidema 2020 (attention rollout).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from .reference_tokens import (
    Matrix,
    Options,
    Token,
    Vector,
    cosine,
    mean,
    norm,
    united,
    weighted_mean,
    weighted_sum,
)

Removal = tuple[int, int | None]  # (source, its destination or None), numbered among their own kind


class Seen(NamedTuple):
    """What a block looks at."""

    tokens: list[Token]  # after attention
    keys: Matrix  # [token][head channel], mean over heads
    importance: Vector  # [token]
    num_prefix: int
    has_class_token: bool
    layer: int
    num_blocks: int


def wanted(options: Options, num_blocks: int) -> list[int]:
    """How many tokens each block should remove; EViT asks three blocks for what r asks of all."""
    if not isinstance(options.r, int):
        return list(options.r)
    if options.method != "evit":
        return [options.r] * num_blocks
    places = {num_blocks * quarter // 4 for quarter in (1, 2, 3)}
    share = round(options.r * num_blocks / len(places))
    return [share * (block in places) for block in range(num_blocks)]


def reduce(seen: Seen, num_removed: int, options: Options) -> list[Token]:
    """The tokens that are left of a block's."""
    if options.method in ("rapid", "tome", "tofu"):
        return by_matching(seen, num_removed, options)
    return by_ranking(seen, num_removed, options)


def by_matching(seen: Seen, num_removed: int, options: Options) -> list[Token]:
    """Pair sources with destinations and remove the first of the pairs' sources."""
    on_tokens = options.match_on == "token"
    features = [token.x for token in seen.tokens] if on_tokens else seen.keys
    similarity = cosines(features, *split(seen.tokens, seen.num_prefix))
    if options.method == "rapid":
        early = seen.layer < first(seen.num_blocks // 3, options)
        choose = stage_r if early else stage_i
        removals = choose(similarity, seen.importance[seen.num_prefix :], options)
    else:
        removals = tome(similarity, [], options)
        if options.method == "tofu" and seen.layer < first(seen.num_blocks // 2, options):
            removals = [(source, None) for source, _ in removals]
    join = mlerp if options.method == "tofu" else average
    return remove(seen.tokens, seen.num_prefix, removals[:num_removed], join)


def first(default: int, options: Options) -> int:
    """How many blocks at the start prune."""
    return default if options.num_prune_blocks is None else options.num_prune_blocks


def by_ranking(seen: Seen, num_removed: int, options: Options) -> list[Token]:
    """Drop the patches with the lowest worth; EViT's fusion leaves their weighted sum behind."""
    worth = WORTH[options.method](seen)
    patches = range(seen.num_prefix, len(seen.tokens))
    gone = sorted(patches, key=lambda i: (worth[i], i))[: num_removed + options.fuse]
    left = [token for position, token in enumerate(seen.tokens) if position not in gone]
    if not options.fuse:
        return left
    lost = [seen.tokens[position] for position in gone]
    total = weighted_sum([worth[i] for i in gone], [token.x for token in lost])
    return [*left, Token(total, 1.0, united(lost))]


# What a patch is worth: [token], prefix tokens counted


def attended(seen: Seen) -> Vector:
    """EViT: the class token's attention."""
    return seen.importance


def unlike(seen: Seen) -> Vector:
    """Patch Similarity: minus the mean cosine similarity to every other patch."""
    patches = range(seen.num_prefix, len(seen.tokens))
    worth = [math.inf] * seen.num_prefix
    for i in patches:
        others = [cosine(seen.tokens[i].x, seen.tokens[j].x) for j in patches if j != i]
        worth.append(-sum(others) / len(others))
    return worth


def rolled_out(seen: Seen) -> Vector:
    """Attention rollout: what the class token, or everybody, has seen of the token's own place."""
    sights = [token.sight or [] for token in seen.tokens]
    sight = sights[0] if seen.has_class_token else mean(sights)
    return [sight[token.first] for token in seen.tokens]


WORTH: dict[str, Callable[[Seen], Vector]] = {
    "evit": attended,
    "patch_similarity": unlike,
    "attention_rollout": rolled_out,
}


def look_through(tokens: list[Token], probs: Matrix) -> list[Vector]:
    """Attention rollout: each token's row, half of it its own and half what its attention sees."""
    rows = [token.sight or unit(token.first, len(tokens)) for token in tokens]
    return [
        [(old + new) / 2 for old, new in zip(rows[i], weighted_sum(line, rows), strict=True)]
        for i, line in enumerate(probs)
    ]


def unit(position: int, length: int) -> Vector:
    """One at a position, zero elsewhere."""
    return [float(i == position) for i in range(length)]


# Three ways to match: (similarity, importance of the patches, options) -> removals, first to last


def stage_r(similarity: Matrix, _importance: Vector, options: Options) -> list[Removal]:
    """Drop the sources with the highest redundancy (eq. 1)."""
    return [(i, None) for i in prune_order(similarity, options.similarity_threshold)]


def stage_i(similarity: Matrix, importance: Vector, options: Options) -> list[Removal]:
    """Merge the sources that are similar to a destination and not important (eq. 2-4)."""
    tau = importance_cutoff(importance, options.importance_top)
    score = []
    for i, line in enumerate(similarity):
        excess = importance[2 * i + 1] - tau  # source i is patch token 2i + 1
        if options.clamp_importance:
            excess = max(excess, 0.0)
        score.append([s - options.importance_weight * excess for s in line])
    return best_pairs(score)


def tome(similarity: Matrix, _importance: Vector, _options: Options) -> list[Removal]:
    """Merge the sources that are most similar to a destination."""
    return best_pairs(similarity)


def split(tokens: list[Token], num_prefix: int) -> tuple[list[int], list[int]]:
    """Positions of sources (odd) and destinations (even), counted among the patch tokens."""
    sources, destinations = [], []
    for position in range(num_prefix, len(tokens)):
        (destinations if (position - num_prefix) % 2 == 0 else sources).append(position)
    return sources, destinations


def cosines(keys: Matrix, sources: list[int], destinations: list[int]) -> Matrix:
    """Cosine similarity, [source][destination]."""
    return [[cosine(keys[i], keys[j]) for j in destinations] for i in sources]


def redundancy(similarity: Matrix, threshold: float) -> Vector:
    """Eq. 1: how much of each source's similarity lies above the threshold."""
    return [sum(max(s - threshold, 0.0) for s in line) for line in similarity]


def prune_order(similarity: Matrix, threshold: float) -> list[int]:
    """Sources from first to last dropped: by redundancy, then mean similarity, then position."""
    score = redundancy(similarity, threshold)
    average = [sum(line) / len(line) for line in similarity]
    return sorted(range(len(score)), key=lambda i: (-score[i], -average[i], i))


def importance_cutoff(importance: Vector, top: float) -> float:
    """τ_A: the ⌈top·n⌉-th largest importance among the n patch tokens."""
    rank = max(1, math.ceil(top * len(importance)))
    return sorted(importance, reverse=True)[rank - 1]


def best_pairs(score: Matrix) -> list[Removal]:
    """Eq. 3 and 4: each source with its first best destination, by score, then position."""
    best = [(max(line), i, line.index(max(line))) for i, line in enumerate(score)]
    return [(i, j) for _, i, j in sorted(best, key=lambda entry: (-entry[0], entry[1]))]


# Putting a match into effect


def average(group: list[Token]) -> Vector:
    """ToMe and RAPID: the size-weighted mean."""
    return weighted_mean(group)


def mlerp(group: list[Token]) -> Vector:
    """ToFu: the plain mean, made as long as the longest of the group."""
    x = mean([token.x for token in group])
    longest = max(norm(token.x) for token in group)
    return [value / norm(x) * longest for value in x]


def remove(
    tokens: list[Token],
    num_prefix: int,
    removals: list[Removal],
    join: Callable[[list[Token]], Vector] = average,
) -> list[Token]:
    """Prefix tokens, then the sources that stay, then all destinations, each in order."""
    sources, destinations = split(tokens, num_prefix)
    groups = {position: [tokens[position]] for position in destinations}
    for i, j in removals:
        if j is not None:
            groups[destinations[j]].append(tokens[sources[i]])
    gone = [sources[i] for i, _ in removals]
    stay = [tokens[position] for position in sources if position not in gone]
    joined = []
    for group in groups.values():
        size = sum(token.size for token in group)
        joined.append(group[0] if len(group) == 1 else Token(join(group), size, united(group)))
    return [*tokens[:num_prefix], *stay, *joined]
