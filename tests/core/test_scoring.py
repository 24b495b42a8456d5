"""The equations, with numbers small enough to check by hand."""

import pytest
import torch
from torch import Tensor

from rapid_core.matching import scoring
from rapid_core.methods.attention_rollout import rollout
from rapid_core.methods.patch_similarity import patch_redundancy, spread_out
from rapid_core.methods.random_drop import pseudo_random
from rapid_core.methods.rapid import importance_cutoff


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
    cutoff = importance_cutoff(importance, top)
    assert cutoff.tolist() == [[expected], [10 * expected]]


@pytest.mark.parametrize("num_patches", [2, 3, 17])
def test_patch_redundancy_is_the_mean_over_all_pairs(num_patches: int) -> None:
    x = random(2, num_patches, 5)
    unit = x / x.norm(dim=-1, keepdim=True)
    pairs = unit @ unit.mT
    others = ~torch.eye(num_patches, dtype=torch.bool)
    expected = [[line[others[i]].mean() for i, line in enumerate(image)] for image in pairs]
    torch.testing.assert_close(patch_redundancy(x), torch.tensor(expected).double())


def test_near_duplicates_are_the_most_redundant() -> None:
    x = torch.eye(6, dtype=torch.float64)[None] + 0.01
    x[0, 4] = x[0, 1] + 0.001
    assert set(patch_redundancy(x)[0].topk(2).indices.tolist()) == {1, 4}


def windows_of_a_4_by_4_grid() -> Tensor:
    return torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [4, 4, 5, 5], [4, 4, 5, 5]]).flatten()


def test_spread_out_counts_who_of_the_window_goes_sooner() -> None:
    score = torch.arange(16.0).flip(0)[None]  # the lower index goes first
    window = windows_of_a_4_by_4_grid()[None]
    gone = 3 * spread_out(score, window, torch.full_like(window, 4))
    expected = [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]
    assert gone.round().reshape(4, 4).tolist() == expected


def test_spread_out_of_equal_scores_takes_the_lower_index_first() -> None:
    window = windows_of_a_4_by_4_grid()[None]
    gone = 3 * spread_out(torch.zeros(1, 16), window, torch.full_like(window, 4))
    expected = [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]
    assert gone.round().reshape(4, 4).tolist() == expected


def test_spread_out_counts_the_patches_that_left_before() -> None:
    """Of the first window patches 0 and 5 are left, of the second one only patch 2."""
    window = torch.tensor([[0, 1, 0, 4]])
    population = torch.tensor([[4, 4, 4, 1]])  # the last one is a corner of an odd grid
    gone = 3 * spread_out(torch.tensor([[0.1, 0.2, 0.3, 0.0]]), window, population)
    assert gone.round().tolist() == [[3, 3, 2, 0]]


def test_rollout_starts_from_the_identity_and_keeps_rows_that_sum_to_1() -> None:
    attention = random(2, 5, 5).softmax(dim=-1)
    once = rollout(attention, None)
    torch.testing.assert_close(once, 0.5 * attention + 0.5 * torch.eye(5).double())
    kept = once[:, [0, 2, 3]]
    twice = rollout(random(2, 3, 3, seed=1).softmax(dim=-1), kept)
    assert twice.shape == (2, 3, 5)
    torch.testing.assert_close(twice.sum(dim=-1), torch.ones(2, 3).double())


# Numbers that look random

CPU = torch.device("cpu")


def test_pseudo_random_numbers_are_always_the_same() -> None:
    first, second = (pseudo_random(196, 5, CPU) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, pseudo_random(196, 6, CPU))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**31, 2**63 + 1, -(10**20)])
def test_pseudo_random_numbers_are_distinct_and_in_range(seed: int) -> None:
    numbers = pseudo_random(1024, seed, CPU)
    assert numbers.dtype == torch.float32
    assert 0 <= numbers.min() < 0.02
    assert 0.98 < numbers.max() <= 1
    assert len(numbers.unique()) > 1020
    assert abs(numbers.mean() - 0.5) < 0.05


def test_each_patch_is_the_first_to_go_about_equally_often() -> None:
    """16 patches, 4000 seeds: 250 times each, give or take 15 (standard deviation)."""
    numbers = torch.stack([pseudo_random(16, seed, CPU) for seed in range(4000)])
    times = numbers.argmax(dim=1).bincount(minlength=16)
    assert times.min() > 250 - 75
    assert times.max() < 250 + 75


def test_neighbours_in_space_and_seed_are_unrelated() -> None:
    numbers = torch.stack([pseudo_random(196, seed, CPU) for seed in range(200)])
    centred = numbers - 0.5
    for along in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1]):
        assert abs(along.mean() * 12) < 0.03  # correlation; its standard deviation is 0.005


def test_histogram_of_pseudo_random_numbers_is_flat() -> None:
    numbers = torch.cat([pseudo_random(196, seed, CPU) for seed in range(500)])
    counts = numbers.histc(bins=20, min=0, max=1)
    assert ((counts / counts.mean() - 1).abs() < 0.08).all()
