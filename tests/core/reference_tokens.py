"""What the reference is made of: tokens, options, and arithmetic on plain lists of floats."""

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Vector = list[float]
Matrix = list[Vector]


@dataclass(frozen=True)
class Options:
    """What is asked of a reduced model; the defaults are the papers'."""

    r: int | Sequence[int]
    method: str = "rapid"
    similarity_threshold: float = 0.7
    num_prune_blocks: int | None = None
    importance_weight: float = 50.0
    importance_top: float = 0.2
    clamp_importance: bool = False
    fuse: bool = False
    match_on: str = "key"
    flat_cells: int = 0


@dataclass(frozen=True)
class Token:
    """One token."""

    x: Vector
    size: float  # how many patches it stands for
    patches: frozenset[int]  # the input patches that it holds
    first: int = -1  # its position before the first block
    sight: Vector | None = None  # its row of the attention rollout, over the tokens at first


def row(module: Callable[[Tensor], Tensor], x: Vector) -> Vector:
    """Apply a module to one token."""
    return module(torch.tensor([[x]], dtype=torch.float64))[0, 0].tolist()


def dot(a: Iterable[float], b: Iterable[float]) -> float:
    """Inner product of two vectors."""
    return sum(map(operator.mul, a, b))


def norm(x: Vector) -> float:
    """Length of a vector."""
    return math.sqrt(dot(x, x))


def cosine(a: Vector, b: Vector) -> float:
    """Cosine of the angle between two vectors."""
    return dot(a, b) / norm(a) / norm(b)


def mean(rows: Matrix) -> Vector:
    """Mean of some vectors."""
    return [sum(channel) / len(rows) for channel in zip(*rows, strict=True)]


def softmax(logits: Vector) -> Vector:
    """Exponentials that sum to one."""
    highest = max(logits)
    weights = [math.exp(value - highest) for value in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


def weighted_sum(weights: Vector, rows: Matrix) -> Vector:
    """Sum of some vectors, each times its weight."""
    return [dot(weights, channel) for channel in zip(*rows, strict=True)]


def united(group: list[Token]) -> frozenset[int]:
    """All input patches that a group holds."""
    return frozenset[int]().union(*(token.patches for token in group))


def weighted_mean(tokens: list[Token]) -> Vector:
    """Mean of the tokens' values, each counted as often as its size."""
    total = sum(token.size for token in tokens)
    return [
        sum(token.size * token.x[channel] for token in tokens) / total
        for channel in range(len(tokens[0].x))
    ]
