"""What is asked of each server, in which order."""

from collections import Counter

from benchmarks.serving import plan, report
from benchmarks.serving.plan import DENSE, FULL_LOAD, MIXED, OURS
from service.tiers import TIERS


def test_the_capacity_is_measured_before_the_loads_that_need_it() -> None:
    for server in (OURS, "mosec"):
        steps = plan.steps(server, quick=False)
        assert len(set(steps)) == len(steps)
        known = set()
        for entry, load in steps:
            if load.name == FULL_LOAD:
                known.add(entry)
            assert load.fraction is None or entry in known


def test_every_tier_and_the_mix_meet_the_full_load() -> None:
    full = [step.entry for step in plan.steps(OURS, quick=False) if step.load.num_clients]
    assert {*full} == {*TIERS, MIXED}
    peer = plan.steps("mosec", quick=False)
    assert [(step.entry, step.load.name) for step in peer] == [
        (DENSE, name) for name in (FULL_LOAD, "1 client", "4 clients", "50%", "80%", "150%")
    ]


def test_the_quick_run_has_no_open_loop_and_still_all_that_targets_need() -> None:
    steps = plan.steps(OURS, quick=True)
    assert all(step.load.fraction is None for step in steps)
    assert {step.entry for step in steps} == set(report.OVER_BEST_PEER)
    assert ("exact", "1 client") in [(step.entry, step.load.name) for step in steps]


def test_only_this_service_is_told_of_tiers_and_deadlines() -> None:
    assert plan.queries("mosec", DENSE, 1000) == {DENSE: {}}
    assert plan.queries(OURS, "turbo", None) == {"turbo": {"tier": "turbo"}}
    assert plan.queries(OURS, "turbo", 1000.0)["turbo"]["deadline_ms"] == "1000"
    assert list(plan.queries(OURS, MIXED, None)) == list(TIERS)


def test_in_several_rounds_nobody_is_always_first_or_last() -> None:
    orders = [plan.in_turn("abcd", number) for number in range(8)]
    assert all(sorted(order) == list("abcd") for order in orders)
    assert Counter(order[0] for order in orders) == dict.fromkeys("abcd", 2)
    assert orders[1] == orders[0][::-1]
