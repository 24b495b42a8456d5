"""Patched models to compare, and the papers' r for a model of another size."""

from typing import Any, NamedTuple

from torch import nn

PAPER_R = (8, 11, 14, 17, 20)
PAPER_PATCHES = 196
PAPER_BLOCKS = 12


class Candidate(NamedTuple):
    """One row of the table, before it is measured."""

    name: str
    r: int
    """tokens removed per block."""
    module: nn.Module
    """images (B, 3, S, S) -> logits (B, K)."""
    macs: int
    """multiply-adds of one image."""


def scaled_r(model: Any) -> list[int]:
    """The papers' r for this model: times patches / 196, times 12 / blocks."""
    num_patches = model.patch_embed.num_patches
    scale = num_patches / PAPER_PATCHES * PAPER_BLOCKS / len(model.blocks)
    return [min(round(r * scale), num_patches // 2) for r in PAPER_R]
