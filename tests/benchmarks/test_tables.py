"""The one table printer."""

import pytest

from benchmarks.measure import tables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("owl", "owl"),
        (1234, "1234"),
        (0.98765, "0.988"),
        (12.345, "12.3"),
        (123.45, "123"),
        (12345.6, "12346"),
        (-0.5, "-0.5"),
        (True, "True"),
    ],
)
def test_a_cell_has_three_digits(value: object, text: str) -> None:
    assert tables.shown(value) == text


def test_columns_are_aligned_and_empty_ones_left_out() -> None:
    rows = [{"name": "a", "r": 0, "x": None}, {"name": "longer", "r": 14, "x": None}]
    assert tables.of(rows, ("name", "r", "x")).splitlines() == [
        "name     r",
        "a        0",
        "longer  14",
    ]


def test_words_stand_to_the_left_and_lines_end_without_blanks() -> None:
    lines = tables.table(["what", "met"], [["a", "yes"], ["bbbbbb", ""]], align_right=False)
    assert lines.splitlines() == ["what    met", "a       yes", "bbbbbb"]


def test_a_table_may_have_no_rows() -> None:
    assert tables.table(["a", "b"], []) == "a  b"
    assert tables.of([], ("a", "b")) == ""
