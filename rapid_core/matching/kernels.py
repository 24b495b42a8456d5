"""The Triton kernels of `fused.py`. No other file imports Triton: it is not always installed."""

# ruff: noqa: PLR0913 - kernels take every pointer, stride and size on its own
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

COUNTS = ("num_patches", "num_prefix_tokens", "num_removed", "importance_stride")
"""Arguments that change from block to block and from schedule to schedule. Triton would compile a
kernel again for some of their values, unless told not to."""


def _kernel(function: Callable[..., Any]) -> Any:
    """A function that Triton compiles when it is first called."""
    return triton.jit(function, do_not_specialize=COUNTS)


@_kernel
def write_unit_keys(
    keys: tl.tensor,
    unit: tl.tensor,
    stride_b: tl.tensor,
    stride_h: tl.tensor,
    stride_n: tl.tensor,
    stride_d: tl.tensor,
    num_patches: tl.tensor,
    num_prefix_tokens: tl.tensor,
    num_heads: tl.constexpr,
    head_dim: tl.constexpr,
    eps: tl.constexpr,
    block_patches: tl.constexpr,
    block_dim: tl.constexpr,
) -> None:
    """Write the mean key of each patch, scaled to length 1.

    One block of threads takes some patches of one image.
    """
    image = tl.program_id(0).to(tl.int64)
    patch = tl.program_id(1) * block_patches + tl.arange(0, block_patches)
    column = tl.arange(0, block_dim)
    inside = (patch < num_patches)[:, None] & (column < head_dim)[None, :]
    token = (num_prefix_tokens + patch).to(tl.int64)
    pointer = keys + image * stride_b + token[:, None] * stride_n + column[None, :] * stride_d
    total = tl.zeros((block_patches, block_dim), tl.float32)
    for _ in range(num_heads):
        total += tl.load(pointer, mask=inside, other=0.0).to(tl.float32)
        pointer += stride_h
    mean = total / num_heads
    length = tl.sqrt_rn(tl.sum(mean * mean, axis=1))
    scaled = tl.div_rn(mean, tl.maximum(length, eps)[:, None])
    row = (image * num_patches + patch) * head_dim
    tl.store(unit + row[:, None] + column[None, :], scaled, mask=inside)


@_kernel
def _similarities(
    unit: tl.tensor,
    source: tl.tensor,
    destination: tl.tensor,
    num_patches: tl.tensor,
    head_dim: tl.constexpr,
    block_dim: tl.constexpr,
) -> tl.tensor:
    """A tile of `scoring.similarity`; 0 where the source or the destination does not exist."""
    row, other_row = 2 * source + 1, 2 * destination
    tile = tl.zeros((source.shape[0], destination.shape[0]), tl.float32)
    for first in range(0, head_dim, block_dim):
        column = first + tl.arange(0, block_dim)
        a = tl.load(
            unit + row[:, None] * head_dim + column[None, :],
            mask=(row < num_patches)[:, None] & (column < head_dim)[None, :],
            other=0.0,
        )
        b = tl.load(
            unit + other_row[None, :] * head_dim + column[:, None],
            mask=(other_row < num_patches)[None, :] & (column < head_dim)[:, None],
            other=0.0,
        )
        tile = tl.dot(a, b, tile, input_precision="ieee")
    return tile


@_kernel
def write_redundancy(
    unit: tl.tensor,
    score: tl.tensor,
    mean_similarity: tl.tensor,
    num_patches: tl.tensor,
    threshold: tl.tensor,
    head_dim: tl.constexpr,
    block_sources: tl.constexpr,
    block_destinations: tl.constexpr,
    block_dim: tl.constexpr,
) -> None:
    """Write the redundancy and the mean similarity of each source.

    One block of threads takes some sources of one image, and all its destinations tile by tile.
    """
    image = tl.program_id(0).to(tl.int64)
    source = tl.program_id(1) * block_sources + tl.arange(0, block_sources)
    num_sources = num_patches // 2
    num_destinations = num_patches - num_sources
    excess = tl.zeros((block_sources, block_destinations), tl.float32)
    total = tl.zeros((block_sources, block_destinations), tl.float32)
    unit += image * num_patches * head_dim
    for first in range(0, num_destinations, block_destinations):
        destination = first + tl.arange(0, block_destinations)
        tile = _similarities(unit, source, destination, num_patches, head_dim, block_dim)
        total += tile
        # Triton's `maximum` would lose NaN.
        tile = tl.where(tile <= threshold, 0.0, tile - threshold)
        excess += tl.where((destination < num_destinations)[None, :], tile, 0.0)
    place = image * num_sources + source
    mean = tl.sum(total, axis=1) / num_destinations
    tl.store(score + place, tl.sum(excess, axis=1), mask=source < num_sources)
    tl.store(mean_similarity + place, mean, mask=source < num_sources)


@_kernel
def write_best_match(
    unit: tl.tensor,
    importance: tl.tensor,
    score: tl.tensor,
    best_destination: tl.tensor,
    importance_stride: tl.tensor,
    num_patches: tl.tensor,
    weight: tl.tensor,
    head_dim: tl.constexpr,
    block_sources: tl.constexpr,
    block_destinations: tl.constexpr,
    block_dim: tl.constexpr,
) -> None:
    """Write the merge score and the best destination of each source.

    One block of threads takes some sources of one image, and all its destinations tile by tile.
    """
    image = tl.program_id(0).to(tl.int64)
    source = tl.program_id(1) * block_sources + tl.arange(0, block_sources)
    num_sources = num_patches // 2
    num_destinations = num_patches - num_sources
    best = tl.full((block_sources,), float("-inf"), tl.float32)
    best_index = tl.zeros((block_sources,), tl.int32)
    unit += image * num_patches * head_dim
    for first in range(0, num_destinations, block_destinations):
        destination = first + tl.arange(0, block_destinations)
        tile = _similarities(unit, source, destination, num_patches, head_dim, block_dim)
        # NaN is the highest, as for argmax. Infinity stands for it: no similarity is infinite.
        tile = tl.where(tile == tile, tile, float("inf"))
        tile = tl.where((destination < num_destinations)[None, :], tile, float("-inf"))
        highest, index = tl.max(
            tile, axis=1, return_indices=True, return_indices_tie_break_left=True
        )
        best_index = tl.where(highest > best, first + index, best_index)
        best = tl.where(highest > best, highest, best)
    best = tl.where(best == float("inf"), float("nan"), best)
    exists = source < num_sources
    if importance is not None:
        a = tl.load(importance + image * importance_stride + 2 * source + 1, mask=exists, other=0.0)
        best -= weight * a
    place = image * num_sources + source
    tl.store(score + place, best, mask=exists)
    tl.store(best_destination + place, best_index.to(tl.int64), mask=exists)


@_kernel
def _higher(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Whether a > b in the order of PyTorch's sort: NaN is higher than any number."""
    return (a > b) | ((a != a) & (b == b))


@_kernel
def _equal(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Whether a = b in the order of PyTorch's sort: NaN equals NaN."""
    return (a == b) | ((a != a) & (b != b))


@_kernel
def _ranks(
    score: tl.tensor,
    tie_break: tl.tensor,
    num_sources: tl.tensor,
    block: tl.constexpr,
    block_others: tl.constexpr,
) -> tl.tensor:
    """How many sources go before each source.

    A source with a higher score goes first; of equal scores, the one with the higher tie-break; of
    equal tie-breaks, the one with the lower index.
    """
    index = tl.arange(0, block)
    mine = tl.load(score + index, mask=index < num_sources, other=0.0)[:, None]
    if tie_break is not None:
        my_tie_break = tl.load(tie_break + index, mask=index < num_sources, other=0.0)[:, None]
    before = tl.zeros((block, block_others), tl.int32)
    for first in range(0, num_sources, block_others):
        other = first + tl.arange(0, block_others)
        exists = other < num_sources
        theirs = tl.load(score + other, mask=exists, other=0.0)[None, :]
        wins_tie = other[None, :] < index[:, None]
        if tie_break is not None:
            their_tie_break = tl.load(tie_break + other, mask=exists, other=0.0)[None, :]
            wins_tie &= _equal(their_tie_break, my_tie_break)
            wins_tie |= _higher(their_tie_break, my_tie_break)
        wins = _higher(theirs, mine) | (_equal(theirs, mine) & wins_tie)
        before += (wins & exists[None, :]).to(tl.int32)
    return tl.sum(before, axis=1)


@_kernel
def write_plan(
    score: tl.tensor,
    tie_break: tl.tensor,
    destination: tl.tensor,
    keep_idx: tl.tensor,
    src_idx: tl.tensor,
    dst_idx: tl.tensor,
    num_patches: tl.tensor,
    num_prefix_tokens: tl.tensor,
    num_removed: tl.tensor,
    block: tl.constexpr,
    block_others: tl.constexpr,
) -> None:
    """Write the plan of one image with one block of threads.

    To prune, `destination`, `src_idx` and `dst_idx` are None; to merge, `tie_break` is None.
    """
    image = tl.program_id(0).to(tl.int64)
    num_sources = num_patches // 2
    num_destinations = num_patches - num_sources
    score += image * num_sources
    if tie_break is not None:
        tie_break += image * num_sources
    rank = _ranks(score, tie_break, num_sources, block, block_others)
    index = tl.arange(0, block)
    exists = index < num_sources
    stays, goes = exists & (rank >= num_removed), exists & (rank < num_removed)
    token = (num_prefix_tokens + 1 + 2 * index).to(tl.int64)
    keep_idx += image * (num_prefix_tokens + num_patches - num_removed)
    tl.store(keep_idx + index, index.to(tl.int64), mask=index < num_prefix_tokens)
    place = num_prefix_tokens + tl.cumsum(stays.to(tl.int32)) - 1
    tl.store(keep_idx + place, token, mask=stays)
    first_destination = num_prefix_tokens + num_sources - num_removed
    tl.store(keep_idx + first_destination + index, token - 1, mask=index < num_destinations)
    if src_idx is not None:
        into = tl.load(destination + image * num_sources + index, mask=goes, other=0)
        place = image * num_removed + rank
        tl.store(src_idx + place, token, mask=goes)
        tl.store(dst_idx + place, first_destination + into, mask=goes)
