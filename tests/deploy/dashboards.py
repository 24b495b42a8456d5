"""What stands on the dashboards, as Grafana reads it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"

# Any: what JSON holds.
Document = dict[str, Any]


class Query(NamedTuple):
    """An expression of a panel."""

    board: str
    panel: str
    unit: str
    expression: str


def read() -> dict[str, Document]:
    """The dashboards, by the names of their files."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels(board: Document) -> list[Document]:
    """Its panels, without the headings of the rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Query]:
    """Every expression of every panel."""
    for name, board in read().items():
        for panel in panels(board):
            for target in panel["targets"]:
                unit = panel["fieldConfig"]["defaults"]["unit"]
                yield Query(name, panel["title"], unit, target["expr"])


def filled_in(expression: str, range_s: int) -> str:
    """An expression as Grafana sends it when all is chosen.

    Args:
        expression: with Grafana's variables.
        range_s: what rates are computed over.
    """
    text = expression.replace("$__rate_interval", f"{range_s}s")
    text = re.sub(r"\$(instance|model|tier)\b", ".*", text)
    assert "$" not in text, text
    return text
