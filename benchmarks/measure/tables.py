"""Tables of text: the one way in which the benchmarks print rows."""

from collections.abc import Mapping, Sequence


def of(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Some members of the rows; columns without any value are left out."""
    columns = [name for name in columns if any(row[name] is not None for row in rows)]
    return table(columns, [[shown(row[name]) for name in columns] for row in rows])


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, align_right: bool = True) -> str:
    """Aligned columns, the first to the left and the others to the right, or all to the left."""
    cells = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if align_right and place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def shown(value: object) -> str:
    """A cell of a table: three digits or all before the point; `-` where there is nothing."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
