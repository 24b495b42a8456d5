"""`rapid calibrate`: find a model's tiers on unlabelled pictures and write them beside it."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import rapid_core
from service.errors import ImageRejectedError, ModelLoadError, TooLargeError
from service.images.decode import InputSpec, decode
from service.models import timm_models
from service.models.tiers_file import CalibratedTier, CalibrationFile
from service.models.timm_models import CALIBRATION, LoadedModel
from service.tiers import TIER_MACS, TIERS

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}


def calibrate(
    spec: str, pictures: Path, *, out: Path | None, device: torch.device, seed: int
) -> Path:
    """Calibrate the tiers of a model; what an interrupted run has found is used again.

    A tier whose cost no schedule reaches is left out; the service then gives it a constant r.

    Args:
        spec: a model, as in RAPID_MODELS.
        pictures: a folder with images, labels are not needed; sub-folders are searched too.
        out: file to write; None: `tiers.json` in the model's folder.
        device: to compute on.
        seed: of the search.

    Returns:
        The file that was written.

    Raises:
        ModelLoadError: the model cannot be loaded or reduced, or has no folder and `out` is not
            given.
    """
    folder = timm_models.folder_of(spec)
    if out is None and folder is None:
        raise ModelLoadError(f"{spec!r} has no folder of its own; say where to write with --out")
    out = out or Path(str(folder)) / CALIBRATION
    loaded = timm_models.load(spec)
    images = load_pictures(pictures, loaded)
    progress = out.with_suffix(".progress.json")
    memo = json.loads(progress.read_text()) if progress.is_file() else {}
    module = loaded.module.to(device)
    found: dict[str, CalibratedTier] = {}
    num_held_out = 0
    for tier in TIERS[1:]:
        with tqdm(desc=tier, unit=" evaluations") as bar:

            def step(line: str, bar: "tqdm[None]" = bar) -> None:
                progress.write_text(json.dumps(memo))
                bar.set_postfix_str(line[:60])
                bar.update()

            try:
                result = rapid_core.calibrate(
                    module, images, macs_ratio=TIER_MACS[tier], seed=seed, memo=memo, on_step=step
                )
            except rapid_core.InvalidScheduleError as exc:
                bar.write(f"{tier} is left out: {exc}")
                continue
            except rapid_core.RapidError as exc:
                raise ModelLoadError(f"cannot calibrate {spec!r}: {exc}") from exc
        num_held_out = result.num_held_out
        found[tier] = CalibratedTier(
            macs_ratio=round(result.macs_ratio, 4),
            agreement=round(result.agreement, 4),
            **asdict(result.candidate),
        )
    if not found:
        raise ModelLoadError(f"no tier of {spec!r} can be calibrated on {len(images)} pictures")
    written = CalibrationFile(
        architecture=loaded.architecture,
        num_pictures=len(images),
        num_held_out=num_held_out,
        seed=seed,
        tiers=found,
    )
    out.write_text(_readable(written))
    progress.unlink(missing_ok=True)
    return out


def load_pictures(folder: Path, loaded: LoadedModel) -> Tensor:
    """Pixels (M, 3, H, W) of every image in a folder, in the order of their paths.

    Raises:
        ModelLoadError: there is none, or one of them cannot be read.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ModelLoadError(f"{folder} has no images")
    spec = InputSpec(loaded.transform, loaded.resize_side)
    pixels = []
    for path in tqdm(paths, desc="pictures"):
        try:
            pixels.append(decode(path.read_bytes(), spec))
        except (ImageRejectedError, TooLargeError) as exc:
            raise ModelLoadError(f"{path}: {exc}") from exc
    return torch.stack(pixels)


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
