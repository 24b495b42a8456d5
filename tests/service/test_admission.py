"""Whoever does not fit is refused at once, and places are given back."""

from contextlib import ExitStack

import pytest

from service.admission import Admission
from service.errors import OverloadedError


def admission(max_images: int = 3, max_bytes: int = 100) -> Admission:
    return Admission(max_images=max_images, max_bytes=max_bytes, retry_after_s=lambda: 7)


@pytest.mark.parametrize(
    ("inside", "wanted", "fits"),
    [
        ({"num_images": 2}, {"num_images": 1}, True),
        ({"num_images": 3}, {"num_images": 1}, False),
        ({"num_images": 3}, {"num_bytes": 100}, True),
        ({"num_bytes": 60}, {"num_bytes": 40}, True),
        ({"num_bytes": 60}, {"num_bytes": 41}, False),
        ({}, {"num_bytes": 101}, True),  # alone, it is let in: it would never fit otherwise
        ({"num_bytes": 1}, {"num_bytes": 101}, False),
    ],
)
def test_what_fits(inside: dict[str, int], wanted: dict[str, int], fits: bool) -> None:
    places = admission()
    with ExitStack() as stack:
        stack.enter_context(places.enter(**inside))
        if fits:
            stack.enter_context(places.enter(**wanted))
        else:
            with pytest.raises(OverloadedError, match="try again later") as refused:
                stack.enter_context(places.enter(**wanted))
            assert refused.value.retry_after_s == 7
    assert (places.num_images, places.num_bytes) == (0, 0)


def test_a_place_is_given_back_when_the_work_fails() -> None:
    places = admission()
    with pytest.raises(ZeroDivisionError), places.enter(num_images=1, num_bytes=5):
        raise ZeroDivisionError
    assert (places.num_images, places.num_bytes) == (0, 0)
