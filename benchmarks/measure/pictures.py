"""Labelled pictures: read, batch by batch, and the classes that a module gives them."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from service.accuracy import probe_set
from service.images import files
from service.images.decode import InputSpec
from service.models.served import ServedModel
from service.models.timm_models import BUNDLED_MODELS, LoadedModel

BUNDLED = "everyday-vit-s14"
PROBE = BUNDLED_MODELS / BUNDLED / "probe"
SUFFIXES = {".jpeg", ".jpg", ".png", ".webp"}


def spec_of(model: ServedModel | LoadedModel) -> InputSpec:
    """What a model wants to see, with Pillow's resizing."""
    side = model.input_spec.resize_side if isinstance(model, ServedModel) else model.resize_side
    return InputSpec(model.transform, side)


def load_probe(model: ServedModel | LoadedModel, folder: Path = PROBE) -> tuple[Tensor, Tensor]:
    """Pixels (M, 3, H, W) and class indices (M,) of a folder with `labels.csv`.

    Raises:
        ModelLoadError: the folder cannot be read, or does not fit the model.
    """
    spec = spec_of(model)
    found = probe_set.read(folder, model.labels, max_pictures=sys.maxsize).pictures
    pixels = [files.read(picture.path, spec) for picture in found]
    return torch.stack(pixels), torch.tensor([picture.label for picture in found])


@torch.inference_mode()
def predict(module: nn.Module, pixels: Tensor, name: str) -> Tensor:
    """The most probable class of each picture: (M,); `name` is for the progress on stderr."""
    device = next(module.parameters()).device
    batches = tqdm(pixels.split(16), desc=name, unit="batch", disable=None)
    return torch.cat([module(batch.to(device)).argmax(dim=-1).cpu() for batch in batches])


class Batches:
    """Labelled pictures, one batch after the other: (pixels (B, 3, H, W), labels (B,)).

    Args:
        model: gives the transform and the classes.
        folder: with `labels.csv`, which is decoded at once, or with a folder for each class.
        batch_size: of all batches but the last.
        limit: so many pictures at most, spread evenly over all. None: all.

    Raises:
        SystemExit: the folder does not fit the model.
    """

    def __init__(
        self, model: LoadedModel, folder: Path, *, batch_size: int, limit: int | None
    ) -> None:
        self._batch_size = batch_size
        self._spec = spec_of(model)
        self._pixels: Tensor | None = None
        if (folder / probe_set.LABELS).exists():
            self._pixels, self._labels = load_probe(model, folder)
        else:
            self._files, self._labels = class_folders(folder, len(model.labels))
        chosen = spread(len(self._labels), limit)
        if self._pixels is None:
            self._files = [self._files[number] for number in chosen]
        else:
            self._pixels = self._pixels[chosen]
        self._labels = self._labels[chosen]
        self.num_pictures = len(chosen)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode in threads; no more than one batch is held."""
        numbers = torch.arange(self.num_pictures).split(self._batch_size)
        with ThreadPoolExecutor() as pool:
            for part in numbers:
                if self._pixels is None:
                    pixels = torch.stack(list(pool.map(self._decode, part.tolist())))
                else:
                    pixels = self._pixels[part]
                yield pixels, self._labels[part]

    def _decode(self, number: int) -> Tensor:
        return files.read(self._files[number], self._spec)


def class_folders(folder: Path, num_classes: int) -> tuple[list[Path], Tensor]:
    """Files and class indices (M,) of a folder with one sub-folder per class, sorted by name.

    Raises:
        SystemExit: there are more or fewer of them than the model has classes.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if len(classes) != num_classes:
        raise SystemExit(
            f"{folder} has {len(classes)} class folders and no labels.csv, the model has "
            f"{num_classes} classes"
        )
    files, labels = [], []
    for index, name in enumerate(classes):
        found = sorted(path for path in name.iterdir() if path.suffix.lower() in SUFFIXES)
        files += found
        labels += [index] * len(found)
    return files, torch.tensor(labels)


def spread(num_all: int, limit: int | None) -> list[int]:
    """At most `limit` of the numbers 0 ... num_all - 1, spread evenly over the sorted classes."""
    num_chosen = num_all if limit is None else min(limit, num_all)
    return [number * num_all // num_chosen for number in range(num_chosen)]


def share_equal(found: Tensor, truth: Tensor) -> float:
    """Share of equal classes."""
    return round((found == truth).float().mean().item(), 4)
