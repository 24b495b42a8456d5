"""What may stand in a mix, and what is said of anything else."""

import pytest

from service.load.mix import parse_mix


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("balanced", [("balanced", {"tier": "balanced"}, 1.0)]),
        (
            " exact = 1, turbo=0.5 ",
            [("exact", {"tier": "exact"}, 1.0), ("turbo", {"tier": "turbo"}, 0.5)],
        ),
        (
            "r:0,budget:12.5=3",
            [("r:0", {"r": "0"}, 1.0), ("budget:12.5", {"max_latency_ms": "12.5"}, 3.0)],
        ),
    ],
)
def test_a_mix_is_names_with_weights(
    text: str, entries: list[tuple[str, dict[str, str], float]]
) -> None:
    assert parse_mix(text) == entries


def test_the_lowest_tier_goes_with_tiers_only() -> None:
    queries = [entry.query for entry in parse_mix("exact,r:3,budget:9", "fast")]
    assert queries == [{"tier": "exact", "min_tier": "fast"}, {"r": "3"}, {"max_latency_ms": "9"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fastest", "'fastest' is no entry; allowed: exact, high"),
        ("", "'' is no entry"),
        ("exact,,fast", "'' is no entry"),
        ("exact=", "the weight of exact must be a number above 0, not ''"),
        ("exact=0", "the weight of exact must be a number above 0, not '0'"),
        ("exact=nan", "not 'nan'"),
        ("exact=inf", "not 'inf'"),
        ("exact=1=2", "not '1=2'"),
        ("exact,fast,exact=2", "exact is in the mix twice"),
        ("r:-1", "r:-1: r is a number of tokens"),
        ("r:1.5", "r:1.5: r is a number of tokens"),
        ("r", "'r' is no entry"),
        ("budget:soon", "budget:soon: the budget in ms must be a number above 0, not 'soon'"),
        ("budget:0", "above 0, not '0'"),
    ],
)
def test_a_wrong_mix_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_mix(text)
