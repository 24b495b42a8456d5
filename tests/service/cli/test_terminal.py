"""What the commands print outside of a terminal."""

import pytest

from service.cli import terminal


def test_a_table_is_plain_text_with_a_row_in_each_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_table(["tier", "top-1"], [["exact", "88.0"], ["[red]:ok:", "9.5 " + "x" * 300]])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["tier", "top-1"]
    assert first.split() == ["exact", "88.0"]
    assert second == "[red]:ok:  9.5 " + "x" * 300
    assert len(first) == len(header) == len(second)


def test_an_error_is_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.error("[bold]first\n  second[/bold] :ok: " + "x" * 300)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: [bold]first second[/bold] :ok: " + "x" * 300 + "\n"


def test_results_and_notes_do_not_mix(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show("wrote [a] :ok: file")
    terminal.note("turbo is left out")
    assert capsys.readouterr() == ("wrote [a] :ok: file\n", "turbo is left out\n")


def test_progress_says_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(terminal.track([3, 1, 2], "things")) == [3, 1, 2]
    with terminal.counting("high") as step:
        step("better")
    assert capsys.readouterr() == ("", "")


def test_what_is_for_a_person_is_not_said_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.tell("try it")
    assert capsys.readouterr() == ("", "")
