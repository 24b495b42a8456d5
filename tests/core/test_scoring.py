"""The equations, with numbers small enough to check by hand."""

import pytest
import torch
from torch import Tensor

from rapid_core import scoring


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("num_tokens", "num_prefix_tokens", "sources", "destinations"),
    [
        (6, 1, [2, 4], [1, 3, 5]),
        (6, 2, [3, 5], [2, 4]),
        (4, 0, [1, 3], [0, 2]),
        (7, 5, [6], [5]),
        (2, 1, [], [1]),
        (1, 1, [], []),
    ],
)
def test_odd_patches_are_sources(
    num_tokens: int, num_prefix_tokens: int, sources: list[int], destinations: list[int]
) -> None:
    position = torch.arange(num_tokens)[None]
    assert scoring.sources(position, num_prefix_tokens)[0].tolist() == sources
    assert scoring.destinations(position, num_prefix_tokens)[0].tolist() == destinations


def test_similarity_is_the_cosine_of_the_mean_over_heads() -> None:
    heads = [
        [[9.0, 9.0], [4.0, 0.0], [0.0, 3.0], [-1.0, 0.0]],  # a prefix token, then three patches
        [[9.0, 9.0], [0.0, 2.0], [0.0, 5.0], [-1.0, 0.0]],
    ]
    similarity = scoring.similarity(torch.tensor([heads], dtype=torch.float64), 1)
    # mean keys of the patches: (2, 1), (0, 4), (-1, 0); the second is the only source
    torch.testing.assert_close(
        similarity, torch.tensor([[[5**-0.5, 0.0]]], dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_similarity_does_not_depend_on_the_length_of_keys() -> None:
    keys = random(2, 3, 9, 4)
    length = torch.rand(2, 1, 9, 1, dtype=torch.float64) + 0.1
    torch.testing.assert_close(scoring.similarity(keys * length, 1), scoring.similarity(keys, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_similarity_of_half_precision_keys_is_computed_in_float32(dtype: torch.dtype) -> None:
    keys = (60000 * random(1, 4, 9, 8).tanh()).to(dtype)  # their sum over heads exceeds float16
    similarity = scoring.similarity(keys, 1)
    assert similarity.dtype == torch.float32
    torch.testing.assert_close(
        similarity.double(), scoring.similarity(keys.double(), 1), rtol=0, atol=1e-6
    )


def test_similarity_is_computed_in_float32_under_autocast() -> None:
    keys = random(1, 4, 9, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        similarity = scoring.similarity(keys, 1)
    torch.testing.assert_close(similarity, scoring.similarity(keys, 1))


def test_similarity_of_a_zero_key_is_finite() -> None:
    assert scoring.similarity(torch.zeros(1, 2, 5, 4), 1).isfinite().all()


def test_redundancy_is_eq_1() -> None:
    similarities = torch.tensor([[[0.9, 0.8, 0.1], [0.95, 0.2, 0.3], [0.71, 0.72, 0.73]]])
    expected = torch.tensor([[0.30, 0.25, 0.06]])
    torch.testing.assert_close(scoring.redundancy(similarities, 0.7), expected)


def test_merge_score_is_eq_2_up_to_a_constant_of_the_image() -> None:
    best, importance = torch.tensor([[0.95, 0.90, 0.85]]), torch.tensor([[0.03, 0.001, 0.002]])
    score = scoring.merge_score(best, importance, 50.0)
    torch.testing.assert_close(score, torch.tensor([[-0.55, 0.85, 0.75]]))
    assert score.argsort(descending=True).tolist() == [[1, 2, 0]]


@pytest.mark.parametrize(
    ("top", "expected"), [(0.2, 5.0), (0.21, 4.0), (0.6, 3.0), (0.001, 5.0), (1.0, 1.0)]
)
def test_importance_cutoff_is_the_share_rounded_up_in_each_image(
    top: float, expected: float
) -> None:
    importance = torch.tensor([[3.0, 1.0, 5.0, 2.0, 4.0], [10.0, 20.0, 30.0, 40.0, 50.0]])
    cutoff = scoring.importance_cutoff(importance, top)
    assert cutoff.tolist() == [[expected], [10 * expected]]
