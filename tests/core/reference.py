"""A slow and obvious second implementation of token reduction, to compare the real one with.

Plain Python floats and loops over images, heads and tokens. The model's own modules are called for
what is not under test (embedding, linear layers, norms, MLP), one token at a time; attention,
scores, choices and merging are written out here and share no code with ``rapid_core``.

A token is a value, a size and the input patches it holds::

    block:  x + attention → choose sources → drop or merge them → x + MLP

Sources: arXiv 2606.08156 (RAPID) eq. 1-4; Bolya et al. 2023 (Token Merging) sections 3.1-3.3.
"""

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

Vector = list[float]
Matrix = list[Vector]
Removal = tuple[int, int | None]  # (source, its destination or None), numbered among their own kind


@dataclass(frozen=True)
class Options:
    """What is asked of a reduced model; the defaults are the paper's."""

    r: int | Sequence[int]
    method: str = "rapid"
    similarity_threshold: float = 0.7
    num_prune_blocks: int | None = None
    importance_weight: float = 50.0
    importance_top: float = 0.2
    clamp_importance: bool = False


@dataclass(frozen=True)
class Token:
    """One token: its value, how many patches it stands for, and which input patches it holds."""

    x: Vector
    size: float
    patches: frozenset[int]


Choose = Callable[[Matrix, Vector, Options], list[Removal]]


class Attended(NamedTuple):
    """What one attention pass gives: the output of each token, its key, and who looks at it."""

    out: Matrix  # [token][channel]
    keys: Matrix  # [token][head channel], mean over heads
    probs: Matrix  # [query][key], mean over heads


class Answer(NamedTuple):
    """The result for one image; lists over blocks describe the tokens after that block."""

    logits: Tensor  # (K,)
    sizes: list[Vector]  # [block][token], prefix tokens first
    assignments: list[list[int]]  # [block][input patch] -> token position, prefix counted; -1 gone


def forward(model: nn.Module, images: Tensor, options: Options) -> Tensor:
    """Logits (B, K) of a timm VisionTransformer that reduces its tokens."""
    return torch.stack([run(model, image, options).logits for image in images])


@torch.no_grad()
def run(model: nn.Module, image: Tensor, options: Options) -> Answer:
    """One image (3, S, S), float64, from pixels to logits."""
    num_blocks, num_prefix = len(model.blocks), model.num_prefix_tokens
    tokens = embed(model, image)
    num_patches = len(tokens) - num_prefix
    sizes, assignments = [], []
    for layer, block in enumerate(model.blocks):
        attended = attend(block.attn, [row(block.norm1, token.x) for token in tokens], tokens)
        tokens = residual(tokens, [row(block.ls1, out) for out in attended.out])
        importance = received(attended.probs, has_class_token=model.has_class_token)
        num_removed = options.r if isinstance(options.r, int) else options.r[layer]
        num_removed = min(num_removed, (len(tokens) - num_prefix) // 2)
        if num_removed > 0:
            similarity = cosines(attended.keys, *split(tokens, num_prefix))
            choose = way_to_choose(options, layer, num_blocks)
            removals = choose(similarity, importance[num_prefix:], options)[:num_removed]
            tokens = remove(tokens, num_prefix, removals)
        outputs = [row(block.ls2, row(block.mlp, row(block.norm2, token.x))) for token in tokens]
        tokens = residual(tokens, outputs)
        sizes.append([token.size for token in tokens])
        assignments.append([position_of(patch, tokens) for patch in range(num_patches)])
    return Answer(head(model, tokens), sizes, assignments)


def way_to_choose(options: Options, layer: int, num_blocks: int) -> Choose:
    """ToMe merges in every block; RAPID prunes in the first third, unless told otherwise."""
    if options.method == "tome":
        return tome
    if options.method != "rapid":
        raise ValueError(options.method)
    num_prune = num_blocks // 3 if options.num_prune_blocks is None else options.num_prune_blocks
    return stage_r if layer < num_prune else stage_i


# The ends of the model


def embed(model: nn.Module, image: Tensor) -> list[Token]:
    """Prefix tokens, then one token for each patch, all of size 1."""
    values = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0].tolist()
    num_prefix = model.num_prefix_tokens
    held = [frozenset[int]()] * num_prefix
    held += [frozenset({patch}) for patch in range(len(values) - num_prefix)]
    return [Token(x, 1.0, patches) for x, patches in zip(values, held, strict=True)]


def head(model: nn.Module, tokens: list[Token]) -> Tensor:
    """Final norm, pooling and classifier."""
    tokens = [replace(token, x=row(model.norm, token.x)) for token in tokens]
    if hasattr(model, "head_dist"):
        by_class, by_distillation = row(model.head, tokens[0].x), row(model.head_dist, tokens[1].x)
        logits = [(a + b) / 2 for a, b in zip(by_class, by_distillation, strict=True)]
    else:
        logits = row(model.head, row(model.fc_norm, pool(model, tokens)))
    return torch.tensor(logits, dtype=torch.float64)


def pool(model: nn.Module, tokens: list[Token]) -> Vector:
    """Class token, or the size-weighted mean (and the maximum) of the tokens that are pooled."""
    if model.global_pool == "token":
        return tokens[0].x
    if not model.pool_include_prefix:
        tokens = tokens[model.num_prefix_tokens :]
    largest = [max(channel) for channel in zip(*(token.x for token in tokens), strict=True)]
    mean = weighted_mean(tokens)
    if model.global_pool == "avg":
        return mean
    if model.global_pool == "max":
        return largest
    if model.global_pool == "avgmax":
        return [(a + b) / 2 for a, b in zip(mean, largest, strict=True)]
    raise ValueError(model.global_pool)


# Attention


def attend(attn: nn.Module, inputs: Matrix, tokens: list[Token]) -> Attended:
    """Multi-head attention in which a key of size s counts s times (``+ log s``)."""
    num_heads, head_dim, num_tokens = attn.num_heads, attn.head_dim, len(inputs)
    queries, keys, values = ([[] for _ in range(num_heads)] for _ in range(3))  # [head][token]
    for x in inputs:
        qkv = row(attn.qkv, x)
        for h in range(num_heads):
            parts = [qkv[(part * num_heads + h) * head_dim :][:head_dim] for part in range(3)]
            queries[h].append(row(attn.q_norm, parts[0]))
            keys[h].append(row(attn.k_norm, parts[1]))
            values[h].append(parts[2])

    out: Matrix = [[] for _ in inputs]  # heads one after the other
    probs = [[0.0] * num_tokens for _ in inputs]
    for h in range(num_heads):
        for i in range(num_tokens):
            logits = [
                dot(queries[h][i], keys[h][j]) / math.sqrt(head_dim) + math.log(tokens[j].size)
                for j in range(num_tokens)
            ]
            p = softmax(logits)
            for j in range(num_tokens):
                probs[i][j] += p[j] / num_heads
            out[i] += [dot(p, channel) for channel in zip(*values[h], strict=True)]
    mean_keys = [
        [sum(keys[h][i][c] for h in range(num_heads)) / num_heads for c in range(head_dim)]
        for i in range(num_tokens)
    ]
    return Attended([row(attn.proj, row(attn.norm, o)) for o in out], mean_keys, probs)


def received(probs: Matrix, *, has_class_token: bool) -> Vector:
    """Importance of each token: the class token's attention to it, or everybody's on average."""
    if has_class_token:
        return probs[0]
    return [sum(line[j] for line in probs) / len(probs) for j in range(len(probs))]


# Three ways to choose: (similarity, importance of the patches, options) -> removals, first to last


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


# The equations


def split(tokens: list[Token], num_prefix: int) -> tuple[list[int], list[int]]:
    """Positions of sources (odd) and destinations (even), counted among the patch tokens."""
    sources, destinations = [], []
    for position in range(num_prefix, len(tokens)):
        (destinations if (position - num_prefix) % 2 == 0 else sources).append(position)
    return sources, destinations


def cosines(keys: Matrix, sources: list[int], destinations: list[int]) -> Matrix:
    """Cosine similarity, [source][destination]."""
    unit = [[value / math.sqrt(dot(key, key)) for value in key] for key in keys]
    return [[dot(unit[i], unit[j]) for j in destinations] for i in sources]


def redundancy(similarity: Matrix, threshold: float) -> Vector:
    """Eq. 1: how much of each source's similarity lies above the threshold."""
    return [sum(max(s - threshold, 0.0) for s in line) for line in similarity]


def prune_order(similarity: Matrix, threshold: float) -> list[int]:
    """Sources from first to last dropped: by redundancy, then mean similarity, then position."""
    score = redundancy(similarity, threshold)
    mean = [sum(line) / len(line) for line in similarity]
    return sorted(range(len(score)), key=lambda i: (-score[i], -mean[i], i))


def importance_cutoff(importance: Vector, top: float) -> float:
    """τ_A: the ⌈top·n⌉-th largest importance among the n patch tokens."""
    rank = max(1, math.ceil(top * len(importance)))
    return sorted(importance, reverse=True)[rank - 1]


def best_pairs(score: Matrix) -> list[Removal]:
    """Eq. 3 and 4: each source with its first best destination, by score, then position."""
    best = [(max(line), i, line.index(max(line))) for i, line in enumerate(score)]
    return [(i, j) for _, i, j in sorted(best, key=lambda entry: (-entry[0], entry[1]))]


# Putting a choice into effect


def remove(tokens: list[Token], num_prefix: int, removals: list[Removal]) -> list[Token]:
    """Prefix tokens, then the sources that stay, then all destinations, each in order."""
    sources, destinations = split(tokens, num_prefix)
    groups = {position: [tokens[position]] for position in destinations}
    for i, j in removals:
        if j is not None:
            groups[destinations[j]].append(tokens[sources[i]])
    gone = [sources[i] for i, _ in removals]
    stay = [tokens[position] for position in sources if position not in gone]
    return [*tokens[:num_prefix], *stay, *(fuse(groups[position]) for position in destinations)]


def residual(tokens: list[Token], outputs: Matrix) -> list[Token]:
    """Add to each token what a layer made of it."""
    return [
        replace(token, x=[a + b for a, b in zip(token.x, output, strict=True)])
        for token, output in zip(tokens, outputs, strict=True)
    ]


def fuse(group: list[Token]) -> Token:
    """One token for a group: size-weighted mean, sizes added, patches united."""
    patches = frozenset[int]().union(*(token.patches for token in group))
    return Token(weighted_mean(group), sum(token.size for token in group), patches)


def position_of(patch: int, tokens: list[Token]) -> int:
    """Where the token is that holds an input patch; -1 if there is none."""
    for position, token in enumerate(tokens):
        if patch in token.patches:
            return position
    return -1


# Arithmetic


def row(module: Callable[[Tensor], Tensor], x: Vector) -> Vector:
    """Apply a module to one token."""
    return module(torch.tensor([[x]], dtype=torch.float64))[0, 0].tolist()


def dot(a: Iterable[float], b: Iterable[float]) -> float:
    """Inner product of two vectors."""
    return sum(map(operator.mul, a, b))


def softmax(logits: Vector) -> Vector:
    """Exponentials that sum to one."""
    highest = max(logits)
    weights = [math.exp(value - highest) for value in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


def weighted_mean(tokens: list[Token]) -> Vector:
    """Mean of the tokens' values, each counted as often as its size."""
    total = sum(token.size for token in tokens)
    return [
        sum(token.size * token.x[channel] for token in tokens) / total
        for channel in range(len(tokens[0].x))
    ]
