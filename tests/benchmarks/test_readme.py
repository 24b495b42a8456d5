"""The table of claims: every script, result and quotation in it is there, and none is missing."""

import importlib
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Row(NamedTuple):
    """One claim."""

    script: str
    """`benchmarks.tiers`"""
    results: list[Path]
    places: list[Path]


def links(cell: str) -> list[Path]:
    return [(BENCHMARKS / link).resolve() for link in LINK.findall(cell)]


def rows() -> list[Row]:
    table = re.findall(
        r"^\| [^|]+ \| `python -m ([\w.]+)` \| ([^|]+) \| ([^|]+) \|$",
        (BENCHMARKS / "README.md").read_text(),
        re.MULTILINE,
    )
    return [Row(script, links(result), links(places)) for script, result, places in table]


def test_every_script_stands_in_the_table_once() -> None:
    modules = {path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "__init__"}
    packages = {path.parent.name for path in BENCHMARKS.glob("*/__main__.py")}
    listed = [row.script for row in rows()]
    assert sorted(listed) == sorted(f"benchmarks.{name}" for name in modules | packages)


@pytest.mark.parametrize("script", [row.script for row in rows()])
def test_every_script_says_what_it_does(
    script: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_package = (ROOT / script.replace(".", "/")).is_dir()
    module = importlib.import_module(f"{script}.__main__" if is_package else script)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert not ended.value.code
    help_text = capsys.readouterr().out
    assert help_text.startswith("usage: ")
    assert len(help_text.splitlines()) > 4


def test_every_result_is_listed_and_there() -> None:
    listed = [result for row in rows() for result in row.results]
    assert sorted(listed) == sorted(RESULTS.glob("*.json"))


def test_where_a_claim_is_said_to_be_quoted_the_result_or_the_script_is_named() -> None:
    for row in rows():
        for place in row.places:
            text = place.read_text()
            linked = {(place.parent / link).resolve() for link in LINK.findall(text)}
            named = f"`python -m {row.script}" in text
            assert named or linked & set(row.results), f"{place} does not name {row.script}"


def test_every_quotation_is_in_the_table() -> None:
    table = {row.script: row for row in rows()}
    for document in DOCUMENTS:
        text = document.read_text()
        for link in LINK.findall(text):
            target = (document.parent / link).resolve()
            if target.parent == RESULTS:
                owners = [row for row in rows() if target in row.results]
                assert [document in row.places for row in owners] == [True], (document, link)
        for script in re.findall(r"python -m (benchmarks[.\w]*)", text):
            assert script in table, f"{document} names {script}, which is not there"
