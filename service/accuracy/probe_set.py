"""Labelled pictures on disk: images, `labels.csv` and, where one was measured, `baseline.json`."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from service.errors import ModelLoadError
from service.tiers import Tier

LABELS = "labels.csv"
BASELINE = "baseline.json"
LONGEST_INDEX = 9
"""digits; Python refuses to read numbers of thousands"""

MIN_FIRST = 32
"""fewest pictures of a first part: with 32, an interval of 95 % is up to 0.33 wide"""


class BaselineTier(BaseModel):
    """What a good model reached."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    top1: Annotated[float, Field(ge=0, le=1)]
    top5: Annotated[float, Field(ge=0, le=1)]


class ProbeBaseline(BaseModel):
    """`baseline.json`: accuracy on the probe pictures, measured when the model was good."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str
    num_pictures: int
    tiers: dict[Tier, BaselineTier]


class Picture(NamedTuple):
    """One labelled picture."""

    path: Path
    label: int
    """index of its class"""


class ProbeSet(NamedTuple):
    """Labelled pictures, and the accuracy that was measured when the model was known to be good."""

    pictures: tuple[Picture, ...]
    """at least one"""
    baseline: ProbeBaseline | None


def read(folder: Path, labels: Sequence[str], *, max_pictures: int) -> ProbeSet:
    """Read the list of pictures; if it is too long, take evenly spaced ones.

    Args:
        folder: holds `labels.csv` with the columns `file` and `index` or `label`.
        labels: of the model, one per class.
        max_pictures: at least 1.

    Raises:
        ModelLoadError: there are no pictures, or the labels do not fit the model.
    """
    path = _inside(folder, LABELS, str(folder))
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as exc:
        raise ModelLoadError(f"cannot read the probe pictures: {exc}") from exc
    if not rows:
        raise ModelLoadError(f"{path} lists no pictures")
    indices = {label: index for index, label in enumerate(labels)}
    pictures = [_picture(path, number, row, indices) for number, row in enumerate(rows, start=2)]
    step = math.ceil(len(pictures) / max_pictures)
    return ProbeSet(tuple(pictures[::step]), _baseline(_inside(folder, BASELINE, str(folder))))


def in_parts(pictures: Sequence[Picture]) -> tuple[list[Picture], list[Picture]]:
    """A small part that holds the classes in the same shares, and the rest.

    Of few pictures the first part is empty: all of them are soon measured.
    """
    num_first = max(MIN_FIRST, len(pictures) // 10)
    if len(pictures) < 2 * num_first:
        return [], list(pictures)
    by_class = sorted(pictures, key=lambda picture: picture.label)
    places = {number * len(pictures) // num_first for number in range(num_first)}
    first = [picture for place, picture in enumerate(by_class) if place in places]
    return first, [picture for place, picture in enumerate(by_class) if place not in places]


def _picture(path: Path, line: int, row: dict[str, str | None], indices: dict[str, int]) -> Picture:
    file, index, label = row.get("file"), row.get("index"), row.get("label")
    place = f"{path}, line {line}"
    if not file:
        raise ModelLoadError(f"{place}: there is no picture {file!r}")
    picture = _inside(path.parent, file, place)
    if not picture.is_file():
        raise ModelLoadError(f"{place}: there is no picture {file!r}")
    if not index:
        if label not in indices:
            raise ModelLoadError(f"{place}: the model has no label {label!r}")
        return Picture(picture, indices[label])
    if not index.isdecimal() or len(index) > LONGEST_INDEX or int(index) >= len(indices):
        raise ModelLoadError(
            f"{place}: index {index[:20]!r} is out of range; allowed for this model: "
            f"0 ... {len(indices) - 1}"
        )
    return Picture(picture, int(index))


def _inside(folder: Path, file: str, place: str) -> Path:
    """The path of a file in a folder, whether it exists or not.

    Whoever wrote the table could otherwise have the service read any file of its machine.

    Args:
        folder: that the file has to be in.
        file: its name there.
        place: where the name was found, for the error.

    Raises:
        ModelLoadError: the name is absolute or goes upwards, or a link leads out of the folder.
    """
    path = folder / file
    leads_out = Path(file).is_absolute() or ".." in Path(file).parts
    if leads_out or (path.is_file() and not path.resolve().is_relative_to(folder.resolve())):
        raise ModelLoadError(
            f"{place}: {file!r} leads out of the folder; copy the file into it, and name it by its "
            "path from there"
        )
    return path


def _baseline(path: Path) -> ProbeBaseline | None:
    if not path.is_file():
        return None
    try:
        return ProbeBaseline.model_validate_json(path.read_text())
    except ValueError as exc:
        raise ModelLoadError(f"{path} cannot be used: {exc}") from exc
