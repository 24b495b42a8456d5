"""Every link of the documentation leads somewhere, and nothing is promised that is not there."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, README, ROOT

LINK = re.compile(r"(?:\]\(|(?:src|href)=\")([^)\s\"]+)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
NAME = {"ids": lambda page: str(page.relative_to(ROOT))}


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    text = FENCE.sub("", page.read_text())
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, **NAME)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, **NAME)
def test_nobody_is_sent_to_an_index_that_has_no_such_package(page: Path) -> None:
    if "decisions" not in page.parts:  # they are history
        assert not re.search(r"pip install[^\n]*['\" ]rapid-vit", page.read_text())


def test_the_readme_links_to_every_page_of_docs() -> None:
    linked = {
        (ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(README.read_text())
    }
    assert {page for page in PAGES if page.parent == DOCS} <= linked
