"""docs/architecture.md is what the code is: its folders, its arrows, its doors."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.docs.pages import DOCS, ROOT, blocks, rows, section

PAGE = (DOCS / "architecture.md").read_text()
CONTRACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
    "importlinter"
]["contracts"]


def folders() -> Iterator[Path]:
    """Every Python package of the two trees, and every folder that stands directly in one."""
    for tree in (ROOT / "service", ROOT / "rapid_core"):
        yield tree
        for folder in sorted(tree.rglob("*")):
            is_code = (folder / "__init__.py").exists() or folder.parent == tree
            if folder.is_dir() and folder.name != "__pycache__" and is_code:
                yield folder


def first_sentence(folder: Path) -> str:
    """Of the docstring of its `__init__.py`; empty if it has none."""
    file = folder / "__init__.py"
    docstring = ast.get_docstring(ast.parse(file.read_text())) if file.exists() else None
    paragraph = " ".join((docstring or "").split("\n\n")[0].split())
    return paragraph.partition(". ")[0].removesuffix(".")


def single_spaced(layer: str) -> str:
    """The same words with one space between them: a layer may go over two lines."""
    return " ".join(layer.split())


def layers(package: str) -> list[str]:
    """The floors of a package, from the top, as import-linter holds them."""
    (contract,) = [one for one in CONTRACTS if one.get("containers") == [package]]
    return [single_spaced(layer) for layer in contract["layers"]]


def test_every_folder_has_its_line_and_no_other_is_listed() -> None:
    listed = {cells[0].strip("`") for cells in rows(section(PAGE, "The folders"))[2:]}
    assert listed == {f"{folder.relative_to(ROOT)}/" for folder in folders()}


def test_the_line_of_a_folder_begins_like_its_docstring() -> None:
    lines = {cells[0].strip("`"): cells[1] for cells in rows(section(PAGE, "The folders"))[2:]}
    for folder in folders():
        name = f"{folder.relative_to(ROOT)}/"
        assert lines[name].startswith(first_sentence(folder)), name


def test_the_arrows_are_those_that_import_linter_holds() -> None:
    drawn = [
        [single_spaced(layer) for layer in block.split("->")]
        for block in blocks(section(PAGE, "The arrows"), "text")
    ]
    assert drawn == [layers("service"), layers("rapid_core")]


def test_the_doors_are_those_that_import_linter_holds() -> None:
    described = {
        tuple(tuple(cell.replace("`", "").split(", ")) for cell in cells)
        for cells in rows(section(PAGE, "The arrows"))[2:]
    }
    held = {
        (tuple(contract["protected_modules"]), tuple(contract["allowed_importers"]))
        for contract in CONTRACTS
        if contract["type"] == "protected"
    }
    assert described == held


def test_every_file_that_a_request_passes_is_there() -> None:
    steps = rows(section(PAGE, "A request's life in nine steps"))[2:]
    assert [cells[0] for cells in steps] == [str(number) for number in range(1, 10)]
    for *_, files in steps:
        for name in files.replace("`", "").split(", "):
            tree = ROOT if name.startswith("rapid_core") else ROOT / "service"
            assert (tree / name).is_file(), name
