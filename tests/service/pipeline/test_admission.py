"""Whoever does not fit is refused at once, and places are given back."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from service.errors import OverloadedError, TooManyRequestsError
from service.pipeline.admission import LONGEST_RETRY_S, Admission, Limits
from service.pipeline.reserve import RESERVED_S


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


def entered(places: Admission, stack: ExitStack, num_images: int, owner: str) -> None:
    stack.enter_context(places.enter(num_images=num_images, owner=owner))


def test_a_key_may_hold_as_much_as_is_free() -> None:
    places = Admission(Limits(12, max_bytes=100, is_shared=True), all_done_s=lambda: 1)
    with ExitStack() as inside:
        for _ in range(6):
            entered(places, inside, 1, "a")
        with pytest.raises(OverloadedError):
            entered(places, inside, 1, "a")
        entered(places, inside, 6, "b")  # a key that comes anew finds its half
        with pytest.raises(OverloadedError), places.receive(announced_bytes=1, owner="a"):
            pass


def test_a_key_alone_may_hold_all() -> None:
    places = Admission(Limits(12, max_bytes=100), all_done_s=lambda: 1)
    with ExitStack() as inside:
        for _ in range(12):
            entered(places, inside, 1, "a")
        assert places.fill == 1


def test_bytes_are_shared_like_images() -> None:
    places = Admission(Limits(12, max_bytes=100, is_shared=True), all_done_s=lambda: 1)
    with (
        places.receive(announced_bytes=40, owner="a") as first,
        places.receive(announced_bytes=40, owner="a") as second,
    ):
        first(40)
        with pytest.raises(OverloadedError):
            second(20)
        with places.receive(announced_bytes=50, owner="b") as other:
            other(50)


def test_images_of_one_key_are_limited() -> None:
    places = Admission(Limits(100, max_bytes=100, max_images_per_key=4), all_done_s=lambda: 8)
    with ExitStack() as inside:
        entered(places, inside, 3, "a")
        with pytest.raises(
            TooManyRequestsError, match="3 images inside, and may have 4"
        ) as refused:
            entered(places, inside, 2, "a")
        assert refused.value.retry_after_s == 3  # a third of the images have to go
        entered(places, inside, 1, "a")
        with pytest.raises(TooManyRequestsError), places.receive(announced_bytes=1, owner="a"):
            pass
        entered(places, inside, 9, "b")  # one request alone may have more


def test_a_refused_large_request_keeps_room_free_for_its_like() -> None:
    now = 0.0
    places = Admission(Limits(10, max_bytes=100), all_done_s=lambda: 1, clock=lambda: now)
    with ExitStack() as inside:
        entered(places, inside, 8, "a")
        with pytest.raises(OverloadedError):
            entered(places, inside, 4, "a")
        with pytest.raises(OverloadedError):
            entered(places, inside, 1, "a")
        now = RESERVED_S
        entered(places, inside, 1, "a")


def test_those_who_are_refused_come_again_one_after_the_other() -> None:
    places = Admission(Limits(2, max_bytes=100), all_done_s=lambda: 4, clock=lambda: 0.0)
    told = []
    with places.enter(num_images=2):
        for _ in range(40):
            with pytest.raises(OverloadedError) as refused, places.enter(num_images=1):
                pass
            told.append(refused.value.retry_after_s)
    assert told[:4] == [4, 6, 8, 10]
    assert told[-1] == LONGEST_RETRY_S
