"""Flat cells: 2 x 2 patches without detail become one token before the first block."""

from functools import partial

import torch
from torch import Tensor

from rapid_core.contract import NOTHING, Decision, Evidence, Planner, TokenLayout
from rapid_core.errors import InvalidScheduleError
from rapid_core.plans import CellPlan
from rapid_core.schedule import removable


def flat_cells(num_cells: int, layout: TokenLayout) -> Decision:
    """The decision before the first block: the flattest cells become one token each.

    Args:
        num_cells: 0 for nothing.
        layout: of the model.

    Raises:
        InvalidScheduleError: so many cells are not possible for this model.
    """
    _check(num_cells, layout)
    if num_cells == 0:
        return NOTHING
    planner: Planner = partial(merge_flat_cells, layout=layout)
    return Decision(3 * num_cells, planner, looks_at_half_size=True)


def _check(num_cells: int, layout: TokenLayout) -> None:
    """Refuse a number of flat cells that is not possible for a model.

    Raises:
        InvalidScheduleError: it says what is allowed.
    """
    if type(num_cells) is not int or num_cells < 0:
        raise InvalidScheduleError(f"flat_cells = {num_cells!r} must be an integer >= 0")
    if num_cells == 0:
        return
    if not layout.is_grid_fixed:
        raise InvalidScheduleError(
            "flat_cells needs images of one size; this model takes any: give input_size"
        )
    rows, columns = layout.grid_size
    if rows % 2 or columns % 2:
        raise InvalidScheduleError(
            "flat_cells needs an even number of rows and columns of patches; this model has "
            f"{rows} x {columns}: give another input_size"
        )
    most = removable(layout.num_tokens, layout.num_prefix_tokens) // 3
    if num_cells > most:
        raise InvalidScheduleError(
            f"flat_cells = {num_cells} must lie in 0 ... {most}: each takes three tokens away, and "
            "at most half of the patches go at one place"
        )


def merge_flat_cells(seen: Evidence, num_removed: int, *, layout: TokenLayout) -> CellPlan:
    """Replace the cells of least detail, three tokens fewer for each; of equal cells the first.

    The tokens stand in the raster order of their first patch.
    """
    assert seen.half_size is not None, "the image at half its size was not given"
    P, (_, num_columns) = layout.num_prefix_tokens, layout.grid_size
    flat = seen.half_size.detail.sort(dim=1, stable=True).indices[:, : num_removed // 3]
    row, column = flat // (num_columns // 2), flat % (num_columns // 2)
    first = 2 * (row * num_columns + column)
    others = torch.cat([first + 1, first + num_columns, first + num_columns + 1], dim=1)
    gone = torch.zeros(
        len(flat), seen.tokens.x.shape[1] - P, dtype=torch.int64, device=flat.device
    ).scatter(1, others, 1)
    kept = gone.sort(dim=1, stable=True).indices[:, : gone.shape[1] - num_removed]
    place = (1 - gone).cumsum(dim=1).gather(1, first) - 1
    return CellPlan(
        keep_idx=torch.cat([_prefix(P, flat), P + kept], dim=1),
        src_idx=P + others,
        dst_idx=P + place.repeat(1, 3),
        x=seen.half_size.cells,
        cell_idx=flat,
    )


def _prefix(num_prefix_tokens: int, like: Tensor) -> Tensor:
    return torch.arange(num_prefix_tokens, device=like.device).expand(len(like), -1)
