"""Bipartite matching in three GPU kernels; PyTorch needs some 20 operations for it.

The kernels are written in Triton, which CUDA builds of PyTorch include (docs/decisions/0012). They
compute what `scoring.py` and `selection.py` define; the tests compare the two. For B images with n
patches, S of them sources and T destinations:

    write_unit_keys                           keys (B, H, N, D) -> (B, n, D), a mean of length 1
    write_redundancy | write_best_match       a tile of similarities at a time -> (B, S), (B, S)
    write_plan                                ranks by counting, no sort -> (B, N - R), (B, R)
"""

import logging
import math
import os
from contextlib import nullcontext
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from rapid_core.plans import MergePlan, PrunePlan

logger = logging.getLogger(__name__)

MAX_TOKENS = 2048
"""With more tokens, ranks by counting would take longer than PyTorch's sort."""
MAX_HEAD_DIM = 1024
"""Wider keys, or tokens where these are matched, are PyTorch's."""
EPS = 1e-12
"""Shortest length that keys are divided by, as in `torch.nn.functional.normalize`."""
BLOCK_SOURCES, BLOCK_DESTINATIONS, BLOCK_DIM = 32, 64, 16
"""Size of a tile of similarities, and the channels of a key that are multiplied at a time."""
BLOCK_VALUES = 2048
"""Numbers of keys that one block of threads averages."""
BLOCK_COMPARISONS = 8192
"""Pairs of scores that one block of threads compares at a time."""
WARP = 32
"""Threads of a warp."""

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton interprets kernels on the CPU."""
_works: dict[torch.device, bool] = {}
"""Devices that have been tried, and whether the kernels work there."""


def is_available(device: torch.device) -> bool:
    """Whether the kernels work on a device.

    A GPU is tried once, on a few keys. The host waits for the result, so `patch` does it before the
    first forward. While a CUDA graph is recorded the host must not wait: a GPU that has not been
    tried by then counts as one where the kernels do not work. On a CPU the kernels run in Triton's
    interpreter (TRITON_INTERPRET=1), for tests alone.
    """
    if device.type != "cuda":
        return device.type == "cpu" and INTERPRETED and _kernels() is not None
    if device not in _works:
        if not torch.cuda.is_available() or torch.cuda.is_current_stream_capturing():
            return False
        _works[device] = _kernels() is not None and _try(device)
    return _works[device]


@cache
def _kernels() -> Any:
    """`rapid_core.matching.kernels`, or None where Triton is not installed.

    The import waits for the first use: where there is no GPU, this library needs no Triton.
    """
    try:
        return import_module("rapid_core.matching.kernels")
    except ImportError:
        return None


def can_match(keys: Tensor) -> bool:
    """Whether the kernels can take these keys (B, H, N, D), or tokens (B, 1, N, C).

    They are not used while PyTorch compiles or traces: a compiler fuses PyTorch's steps itself.
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
    _launch_tiles(_kernels().write_redundancy, unit, score, mean_similarity, n, float(threshold))
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
        (B, S), float32, and (B, S), in 0 ... T - 1; of equal destinations the first.
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
    _launch_tiles(_kernels().write_best_match, unit, importance, score, destination, *counts)
    return score, destination


def plan_prune(
    score: Tensor,
    tie_break: Tensor,
    *,
    num_removed: int,
    num_tokens: int,
    num_prefix_tokens: int,
) -> PrunePlan:
    """Exactly `selection.plan_prune`, for contiguous scores (B, S)."""
    keep_idx = _empty_indices(score, num_tokens - num_removed)
    counts = (num_tokens - num_prefix_tokens, num_prefix_tokens, num_removed)
    _launch_plan(score, tie_break, None, (keep_idx, None, None), counts)
    return PrunePlan(keep_idx)


def plan_merge(
    score: Tensor,
    destination: Tensor,
    *,
    num_removed: int,
    num_tokens: int,
    num_prefix_tokens: int,
) -> MergePlan:
    """Exactly `selection.plan_merge`, for contiguous scores (B, S)."""
    keep_idx = _empty_indices(score, num_tokens - num_removed)
    src_idx, dst_idx = _empty_indices(score, num_removed), _empty_indices(score, num_removed)
    counts = (num_tokens - num_prefix_tokens, num_prefix_tokens, num_removed)
    _launch_plan(score, None, destination, (keep_idx, src_idx, dst_idx), counts)
    return MergePlan(keep_idx, src_idx, dst_idx)


def _unit_keys(keys: Tensor, num_prefix_tokens: int) -> Tensor:
    """Keys of the patches, averaged over heads, of length 1: (B, H, N, D) -> (B, n, D) float32."""
    B, H, N, D = keys.shape
    n = N - num_prefix_tokens
    unit = torch.empty(B, n, D, dtype=torch.float32, device=keys.device)
    block_dim = max(16, _next_power_of_2(D))
    block_patches = max(1, BLOCK_VALUES // block_dim)
    _launch(
        _kernels().write_unit_keys,
        (B, math.ceil(n / block_patches)),
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
    """Start a kernel that computes similarities of unit keys (B, n, D), tile by tile."""
    B, n, D = unit.shape
    _launch(
        kernel,
        (B, math.ceil(n // 2 / BLOCK_SOURCES)),
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
    found: tuple[Tensor, Tensor | None, Tensor | None],
    counts: tuple[int, int, int],
) -> None:
    """Start the kernel that writes a plan, with at least one thread for each destination.

    The number of threads is a power of two: Triton compiles the kernel once for each number.

    Args:
        score: (B, S).
        tie_break: (B, S), for a prune plan; else None.
        destination: (B, S), for a merge plan; else None.
        found: the tensors to write: `keep_idx`; for a merge plan, also `src_idx` and `dst_idx`.
        counts: n, P and R.
    """
    num_patches, num_prefix_tokens, _ = counts
    block = max(128, _next_power_of_2(max((num_patches + 1) // 2, num_prefix_tokens)))
    _launch(
        _kernels().write_plan,
        (len(score), 1),
        *(score, tie_break, destination, *found, *counts),
        block=block,
        block_others=min(16, BLOCK_COMPARISONS // block),
        num_warps=min(32, block // WARP),
    )


def _launch(
    kernel: Any, grid: tuple[int, int], *arguments: Tensor | float | None, **constants: float
) -> None:
    """Start a kernel on the device of its first argument, not on the current device."""
    assert isinstance(arguments[0], Tensor)
    device = arguments[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*arguments, **constants)


def _next_power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _empty_indices(score: Tensor, num_indices: int) -> Tensor:
    return torch.empty(len(score), num_indices, dtype=torch.int64, device=score.device)


def _try(device: torch.device) -> bool:
    """Whether the kernels match four keys correctly; the last two keys are equal."""
    counts: dict[str, Any] = {"num_removed": 1, "num_tokens": 4, "num_prefix_tokens": 0}
    try:
        keys = torch.eye(3, 16, device=device)[None, None, [0, 1, 2, 2]]
        prune = plan_prune(*redundancy(keys, 0, 0.5), **counts)
        merge = plan_merge(*best_match(keys, 0), **counts)
        expected = torch.tensor([[1, 0, 2]], device=device)
        if not torch.equal(prune.keep_idx, expected) or not torch.equal(merge.keep_idx, expected):
            raise RuntimeError("they give wrong results")
    except Exception as error:  # noqa: BLE001 - whatever fails, PyTorch can match instead
        logger.warning("fused kernels do not work on %s, so PyTorch matches: %s", device, error)
        return False
    return True
