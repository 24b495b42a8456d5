"""Whoever does not fit is refused at once, and places are given back."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from service.errors import OverloadedError
from service.pipeline.admission import Admission, Limits


@pytest.fixture
def places() -> Iterator[Admission]:
    places = Admission(Limits(max_images=3, max_bytes=100), all_done_s=lambda: 7)
    yield places
    assert (places.num_images, places.num_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("inside", "wanted", "fits"),
    [(0, 3, True), (2, 1, True), (3, 1, False), (2, 2, False), (0, 4, True), (1, 4, False)],
)
def test_how_many_images_fit(places: Admission, inside: int, wanted: int, fits: bool) -> None:
    with places.enter(num_images=inside):
        if fits:
            with places.enter(num_images=wanted):
                assert places.num_images == inside + wanted
        else:
            refused = pytest.raises(OverloadedError, match="try again later")
            with refused as refusal, places.enter(num_images=wanted):
                pass
            assert refusal.value.retry_after_s == 7
        assert places.num_images == inside


@pytest.mark.parametrize(
    ("inside", "announced", "fits"),
    [
        (0, 0, True),
        (60, 40, True),
        (60, 41, False),
        (60, 0, True),  # who knows
        (100, 0, True),
        (0, 101, True),  # alone, it is let in: it would never fit otherwise
        (1, 101, False),
    ],
)
def test_a_body_that_will_not_fit_is_refused_at_once(
    places: Admission, inside: int, announced: int, fits: bool
) -> None:
    with places.receive(announced_bytes=inside) as arrived:
        arrived(inside)
        if fits:
            with places.receive(announced_bytes=announced):
                assert places.num_bytes == inside
        else:
            with (
                pytest.raises(OverloadedError, match="try again later"),
                places.receive(announced_bytes=announced),
            ):
                pass


def test_who_only_announces_keeps_nobody_out(places: Admission) -> None:
    with ExitStack() as idle:
        for _ in range(1000):
            idle.enter_context(places.receive(announced_bytes=100))
        assert (places.num_bytes, places.fill) == (0, 0)
        with places.receive(announced_bytes=90) as arrived:
            arrived(90)
            assert places.fill == 0.9


def test_what_has_arrived_counts(places: Admission) -> None:
    with places.receive(announced_bytes=0) as first, places.receive(announced_bytes=0) as second:
        first(30)
        second(50)
        first(20)
        with pytest.raises(OverloadedError):
            first(1)
        with pytest.raises(OverloadedError):
            second(1)
        assert places.num_bytes == 100


def test_one_body_alone_may_be_larger_than_the_limit(places: Admission) -> None:
    with places.receive(announced_bytes=300) as large:
        large(150)
        with pytest.raises(OverloadedError), places.receive(announced_bytes=0) as other:
            other(1)
        large(150)
        assert (places.num_bytes, places.fill) == (300, 1)


def test_no_body_is_received_for_which_there_is_no_place(places: Admission) -> None:
    with (
        places.enter(num_images=3),
        pytest.raises(OverloadedError),
        places.receive(announced_bytes=1),
    ):
        pass
    with places.receive(announced_bytes=1):
        pass


def test_a_place_is_given_back_when_the_work_fails(places: Admission) -> None:
    def work() -> None:
        with places.receive(announced_bytes=5) as arrived, places.enter(num_images=1):
            arrived(5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
