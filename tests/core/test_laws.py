"""All laws on all methods, the table itself: a new entry is taken up without a change here."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from rapid_core import METHODS

from .laws import LAWS, Request, name_of, requests_of

PAGES = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "request_", [request for method in METHODS for request in requests_of(method)], ids=name_of
)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law: Callable[[Request], None], request_: Request) -> None:
    law(request_)


@pytest.mark.parametrize("method", METHODS)
def test_the_page_of_a_method_has_a_table_of_its_options(method: str) -> None:
    assert f"| [`{method}`](#{method}) |" in PAGES
    (page,) = re.findall(rf"^## {method}\n(.*?)(?=^## |\Z)", PAGES, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert rows == [option.name for option in fields(METHODS[method])]  # type: ignore[arg-type]
    assert bool(rows) != ("No options." in page)
