"""The matching of RAPID and ToMe in three GPU kernels; in PyTorch it is some 20 operations.

Written in Triton, which CUDA builds of PyTorch bring along (docs/decisions/0012). The same steps
as in `scoring.py` and `selection.py`, which define what is computed and which the tests compare
this with. For B images with n patches, S of them sources and T destinations:

    _write_unit_keys                          keys (B, H, N, D) -> (B, n, D), a mean of length 1
    _write_redundancy | _write_best_match     a tile of similarities at a time -> (B, S), (B, S)
    _write_plan                               ranks by counting, no sort -> (B, N - R), (B, R)
"""

# ruff: noqa: PLR0913 - kernels take every pointer, stride and size on its own
from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from rapid_core.selection import MergePlan, PrunePlan

try:
    import triton
    import triton.language as tl
except ImportError:  # builds of PyTorch for the CPU come without it
    triton = None

logger = logging.getLogger(__name__)

MAX_TOKENS = 2048
"""Beyond, ranks by counting would take longer than PyTorch's sort."""
MAX_HEAD_DIM = 1024
EPS = 1e-12
"""of `torch.nn.functional.normalize`"""
BLOCK_SOURCES, BLOCK_DESTINATIONS, BLOCK_DIM = 32, 64, 16
"""a tile of similarities, and how much of the head dimension is multiplied at a time"""
BLOCK_VALUES = 2048
"""of keys, averaged by one block of threads"""
BLOCK_COMPARISONS = 8192
"""of scores at a time, by one block of threads"""
WARP = 32
"""threads"""

COUNTS = ("num_patches", "num_prefix_tokens", "num_removed", "importance_stride")
"""arguments of kernels that change from block to block and from tier to tier; Triton would compile
a kernel again for some of their values"""

_works: dict[torch.device, bool] = {}
"""devices that have been tried"""


def is_available(device: torch.device) -> bool:
    """Whether the kernels work on a device.

    A GPU is tried once, on a few numbers, for which the host waits; `patch` sees to it. While a
    CUDA graph is recorded nobody may wait: a GPU not tried before then counts as unable. On a CPU
    the kernels are for tests alone, in Triton's interpreter (TRITON_INTERPRET=1).
    """
    if triton is None:
        return False
    if device.type != "cuda":
        return device.type == "cpu" and not isinstance(_write_plan, triton.JITFunction)
    if device not in _works:
        if not torch.cuda.is_available() or torch.cuda.is_current_stream_capturing():
            return False
        _works[device] = _try(device)
    return _works[device]


def can_match(keys: Tensor) -> bool:
    """Whether the kernels take these keys (B, H, N, D); what they do not is left to PyTorch.

    While PyTorch compiles or traces they do not: a compiler fuses its steps itself.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    return (
        keys.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and keys.shape[2] <= MAX_TOKENS
        and keys.shape[3] <= MAX_HEAD_DIM
        and is_available(keys.device)
    )


def redundancy(keys: Tensor, num_prefix_tokens: int, threshold: float) -> tuple[Tensor, Tensor]:
    """`scoring.redundancy` of every source, and its mean similarity to all destinations.

    Args:
        keys: (B, H, N, D), for which `can_match` holds.
        num_prefix_tokens: P.
        threshold: τ.

    Returns:
        (B, S) and (B, S), float32.
    """
    unit = _unit_keys(keys, num_prefix_tokens)
    B, n, _ = unit.shape
    score, mean_similarity = unit.new_empty(B, n // 2), unit.new_empty(B, n // 2)
    _launch_tiles(_write_redundancy, unit, score, mean_similarity, n, float(threshold))
    return score, mean_similarity


def best_match(
    keys: Tensor, num_prefix_tokens: int, importance: Tensor | None = None, weight: float = 0.0
) -> tuple[Tensor, Tensor]:
    """`scoring.merge_score` of every source, and its most similar destination.

    Args:
        keys: (B, H, N, D), for which `can_match` holds.
        num_prefix_tokens: P.
        importance: (B, N), A of every token; None: the score is the similarity alone.
        weight: λ.

    Returns:
        (B, S), float32, and (B, S), in 0 ... T - 1, the first of equal ones.
    """
    unit = _unit_keys(keys, num_prefix_tokens)
    B, n, _ = unit.shape
    score = unit.new_empty(B, n // 2)
    destination = torch.empty_like(score, dtype=torch.int64)
    stride = 0
    if importance is not None:
        importance = importance.detach().contiguous()[:, num_prefix_tokens:]
        stride = importance.stride(0)
    counts = (stride, n, float(weight))
    _launch_tiles(_write_best_match, unit, importance, score, destination, *counts)
    return score, destination


def plan_prune(
    score: Tensor,
    tie_break: Tensor,
    *,
    num_removed: int,
    num_tokens: int,
    num_prefix_tokens: int,
) -> PrunePlan:
    """`selection.plan_prune`, number for number, of contiguous scores (B, S)."""
    keep_idx = _empty_indices(score, num_tokens - num_removed)
    counts = (num_tokens - num_prefix_tokens, num_prefix_tokens, num_removed)
    _launch_plan(score, tie_break, None, keep_idx, None, None, *counts)
    return PrunePlan(keep_idx)


def plan_merge(
    score: Tensor,
    destination: Tensor,
    *,
    num_removed: int,
    num_tokens: int,
    num_prefix_tokens: int,
) -> MergePlan:
    """`selection.plan_merge`, number for number, of contiguous scores (B, S)."""
    keep_idx = _empty_indices(score, num_tokens - num_removed)
    src_idx, dst_idx = _empty_indices(score, num_removed), _empty_indices(score, num_removed)
    counts = (num_tokens - num_prefix_tokens, num_prefix_tokens, num_removed)
    _launch_plan(score, None, destination, keep_idx, src_idx, dst_idx, *counts)
    return MergePlan(keep_idx, src_idx, dst_idx)


def _unit_keys(keys: Tensor, num_prefix_tokens: int) -> Tensor:
    """Keys of the patches, averaged over heads, of length 1: (B, H, N, D) -> (B, n, D) float32."""
    B, H, N, D = keys.shape
    n = N - num_prefix_tokens
    unit = torch.empty(B, n, D, dtype=torch.float32, device=keys.device)
    block_dim = max(16, triton.next_power_of_2(D))
    block_patches = max(1, BLOCK_VALUES // block_dim)
    _launch(
        _write_unit_keys,
        (B, triton.cdiv(n, block_patches)),
        keys.detach(),
        unit,
        *keys.stride(),
        n,
        num_prefix_tokens,
        num_heads=H,
        head_dim=D,
        eps=EPS,
        block_patches=block_patches,
        block_dim=block_dim,
    )
    return unit


def _launch_tiles(kernel: Any, unit: Tensor, *arguments: Tensor | float | None) -> None:
    """Start a kernel that takes similarities of unit keys (B, n, D), tile by tile."""
    B, n, D = unit.shape
    _launch(
        kernel,
        (B, triton.cdiv(n // 2, BLOCK_SOURCES)),
        unit,
        *arguments,
        head_dim=D,
        block_sources=BLOCK_SOURCES,
        block_destinations=BLOCK_DESTINATIONS,
        block_dim=BLOCK_DIM,
        num_warps=BLOCK_SOURCES * BLOCK_DESTINATIONS // (8 * WARP),
    )


def _launch_plan(
    score: Tensor,
    tie_break: Tensor | None,
    destination: Tensor | None,
    keep_idx: Tensor,
    src_idx: Tensor | None,
    dst_idx: Tensor | None,
    num_patches: int,
    num_prefix_tokens: int,
    num_removed: int,
) -> None:
    """A thread for each destination; few sizes, as Triton compiles the kernel for each of them."""
    block = max(128, triton.next_power_of_2(max((num_patches + 1) // 2, num_prefix_tokens)))
    tensors = (score, tie_break, destination, keep_idx, src_idx, dst_idx)
    counts = (num_patches, num_prefix_tokens, num_removed)
    _launch(
        _write_plan,
        (len(score), 1),
        *tensors,
        *counts,
        block=block,
        block_others=min(16, BLOCK_COMPARISONS // block),
        num_warps=min(32, block // WARP),
    )


def _launch(
    kernel: Any, grid: tuple[int, int], *arguments: Tensor | float | None, **constants: float
) -> None:
    """Start a kernel on the device of its first argument, whatever the current device is."""
    assert isinstance(arguments[0], Tensor)
    device = arguments[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*arguments, **constants)


def _empty_indices(score: Tensor, num_indices: int) -> Tensor:
    return torch.empty(len(score), num_indices, dtype=torch.int64, device=score.device)


def _kernel(function: Callable[..., Any]) -> Any:
    """Let Triton compile a function when it is first called; without Triton nobody calls it."""
    return function if triton is None else triton.jit(function, do_not_specialize=COUNTS)


@_kernel
def _write_unit_keys(
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
    """One block of threads: some patches of one image."""
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
    """A tile of `scoring.similarity`; 0 where there is no such source or destination."""
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
def _write_redundancy(
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
    """One block of threads: some sources of one image, all its destinations one tile at a time."""
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
        # Not `maximum`, which forgets NaN.
        tile = tl.where(tile <= threshold, 0.0, tile - threshold)
        excess += tl.where((destination < num_destinations)[None, :], tile, 0.0)
    place = image * num_sources + source
    mean = tl.sum(total, axis=1) / num_destinations
    tl.store(score + place, tl.sum(excess, axis=1), mask=source < num_sources)
    tl.store(mean_similarity + place, mean, mask=source < num_sources)


@_kernel
def _write_best_match(
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
    """One block of threads: some sources of one image, all its destinations one tile at a time."""
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
        # NaN is the highest of all, as it is for argmax; similarities are never infinite.
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
    """As PyTorch sorts: NaN is higher than any number."""
    return (a > b) | ((a != a) & (b == b))


@_kernel
def _equal(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """As PyTorch sorts: NaN equals NaN."""
    return (a == b) | ((a != a) & (b != b))


@_kernel
def _ranks(
    score: tl.tensor,
    tie_break: tl.tensor,
    num_sources: tl.tensor,
    block: tl.constexpr,
    block_others: tl.constexpr,
) -> tl.tensor:
    """How many sources go before each one.

    Those with a higher score; of equal ones those with a higher tie-break; of these equal too,
    those with a lower index.
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
def _write_plan(
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
    """One block of threads: one image. Without a tie-break None, without destinations too."""
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


def _try(device: torch.device) -> bool:
    """Whether four keys, of which the last two are equal, are matched as they should be."""
    counts: dict[str, Any] = {"num_removed": 1, "num_tokens": 4, "num_prefix_tokens": 0}
    try:
        keys = torch.eye(3, 16, device=device)[None, None, [0, 1, 2, 2]]
        prune = plan_prune(*redundancy(keys, 0, 0.5), **counts)
        merge = plan_merge(*best_match(keys, 0), **counts)
        expected = torch.tensor([[1, 0, 2]], device=device)
        if not torch.equal(prune.keep_idx, expected) or not torch.equal(merge.keep_idx, expected):
            raise RuntimeError("they give wrong results")
    except Exception as error:  # noqa: BLE001 - whatever it is, PyTorch can do the work instead
        logger.warning("fused kernels do not work on %s, so PyTorch matches: %s", device, error)
        return False
    return True
