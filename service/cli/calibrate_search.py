"""Find a model's tiers on unlabelled pictures and write them: the work of `rapid calibrate`."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import rapid_core
from service.backends import devices
from service.backends.placement import choose
from service.errors import ModelLoadError
from service.images import files
from service.images.decode import InputSpec
from service.images.formats import heic
from service.images.options import COLOR, Color
from service.models import timm_models
from service.models.tiers_file import CalibratedTier, CalibrationFile
from service.models.timm_models import CALIBRATION, LoadedModel
from service.tiers import TIER_MACS, TIERS, Tier

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}


class Search(NamedTuple):
    """What to search, and on which pictures."""

    model: str
    """as in RAPID_MODELS"""
    images: Path
    """a folder; labels are not needed; sub-folders are searched too"""
    out: Path | None = None
    """file to write; None: `tiers.json` in the model's folder"""
    device: str = "auto"
    color: Color = COLOR
    seed: int = 0


class Found(NamedTuple):
    """What a search has left."""

    written: Path
    left_out: dict[Tier, str]
    """tiers without a schedule, and why; the service gives them a constant r"""


Step = Callable[[str], None]
"""is called with a line of text after each evaluation of a schedule"""
Memo = dict[str, list[float]]
"""what has been evaluated, as `rapid_core.calibrate` keeps it"""


class Watch(NamedTuple):
    """Is told how far a search has come; by default nothing happens."""

    pictures: Callable[[Sequence[Path]], Iterable[Path]] = lambda paths: paths
    """gives the paths back one by one; a picture is read before the next one is asked for"""
    tier: Callable[[Tier], AbstractContextManager[Step]] = lambda _: nullcontext(lambda _: None)
    """is entered for the search of each tier"""


SILENT = Watch()


def find_tiers(search: Search, watch: Watch = SILENT) -> Found:
    """Calibrate the tiers of a model; what an interrupted run has found is used again.

    Args:
        search: the model and the pictures.
        watch: is told how far the search has come.

    Raises:
        ModelLoadError: the model cannot be loaded or reduced, has no folder and `out` is not given,
            or no tier's cost can be reached.
        SettingsError: there is no such device.
    """
    devices.check(search.device)
    out = search.out or _beside(search.model)
    loaded = timm_models.load(search.model)
    images = load_pictures(search.images, loaded, search.color, watch)
    loaded.module.to(choose(search.device, "torch", "float32").device)
    progress = out.with_suffix(".progress.json")
    memo: Memo = json.loads(progress.read_text()) if progress.is_file() else {}
    calibrate = partial(rapid_core.calibrate, loaded.module, images, seed=search.seed, memo=memo)

    def find(tier: Tier, step: Step) -> rapid_core.Calibration:
        def save(line: str) -> None:
            progress.write_text(json.dumps(memo))
            step(line)

        return calibrate(macs_ratio=TIER_MACS[tier], on_step=save)

    found, left_out = _search(find, watch, search.model)
    if not found:
        raise ModelLoadError(
            f"no tier of {search.model!r} can be calibrated on {len(images)} pictures"
        )
    out.write_text(_readable(_file(found, loaded.architecture, len(images), search.seed)))
    progress.unlink(missing_ok=True)
    return Found(out, left_out)


def load_pictures(
    folder: Path, loaded: LoadedModel, color: Color = COLOR, watch: Watch = SILENT
) -> Tensor:
    """Pixels (M, 3, H, W) of every image in a folder, in the order of their paths.

    Raises:
        ModelLoadError: there is none, or one of them cannot be read.
    """
    suffixes = IMAGE_SUFFIXES | (heic.SUFFIXES if heic.is_installed() else set())
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not paths:
        raise ModelLoadError(f"{folder} has no images")
    spec = InputSpec(loaded.transform, loaded.resize_side, color)
    return torch.stack([files.read(path, spec) for path in watch.pictures(paths)])


def _search(
    find: Callable[[Tier, Step], rapid_core.Calibration], watch: Watch, model: str
) -> tuple[dict[Tier, rapid_core.Calibration], dict[Tier, str]]:
    """What each tier gets, and why the others get nothing."""
    found: dict[Tier, rapid_core.Calibration] = {}
    left_out: dict[Tier, str] = {}
    for tier in TIERS[1:]:
        with watch.tier(tier) as step:
            try:
                found[tier] = find(tier, step)
            except rapid_core.InvalidScheduleError as exc:
                left_out[tier] = str(exc)
            except rapid_core.RapidError as exc:
                raise ModelLoadError(f"cannot calibrate {model!r}: {exc}") from exc
    return found, left_out


def _beside(model: str) -> Path:
    """The file in a model's own folder."""
    folder = timm_models.folder_of(model)
    if folder is None:
        raise ModelLoadError(f"{model!r} has no folder of its own; say where to write with --out")
    return folder / CALIBRATION


def _file(
    found: Mapping[Tier, rapid_core.Calibration], architecture: str, num_pictures: int, seed: int
) -> CalibrationFile:
    return CalibrationFile(
        architecture=architecture,
        num_pictures=num_pictures,
        num_held_out=next(iter(found.values())).num_held_out,
        seed=seed,
        tiers={
            tier: CalibratedTier(
                macs_ratio=round(result.macs_ratio, 4),
                agreement=round(result.agreement, 4),
                **asdict(result.candidate),
            )
            for tier, result in found.items()
        },
    )


def _readable(written: CalibrationFile) -> str:
    """JSON with one line per member, and each schedule on one line."""
    document = written.model_dump(mode="json")
    schedules = [tier["r"] for tier in document["tiers"].values()]
    for number, tier in enumerate(document["tiers"].values()):
        tier["r"] = f"schedule {number}"
    text = json.dumps(document, indent=1)
    for number, schedule in enumerate(schedules):
        text = text.replace(f'"schedule {number}"', json.dumps(schedule))
    return f"{text}\n"
