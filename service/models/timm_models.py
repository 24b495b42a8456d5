"""The only module that imports timm: it creates models, and reads their labels and transforms."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from service import cache
from service.backends.pixels import Normalization
from service.errors import ModelLoadError
from service.images.cut import Cut
from service.images.shrink import Shrink
from service.models import labels
from service.models.tiers_file import CalibrationFile


def _register_missing_operators() -> torch.library.Library:
    """Declare the two torchvision operators without which its Python part cannot be imported.

    A torchvision wheel built for another torch (a CPU build, say) cannot load its compiled
    operators, and then `import torchvision`, and so `import timm`, fails while it describes them.
    Declaring the schemas is enough: timm never calls them.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return library


try:
    import torchvision  # noqa: F401 - only to see whether it can be imported
except RuntimeError:
    _operators = _register_missing_operators()  # kept alive, as the schemas live no longer than it

import timm  # noqa: E402
from timm.data import (  # noqa: E402
    ImageNetInfo,
    create_transform,
    infer_imagenet_subset,
    resolve_model_data_config,
)
from timm.data.transforms import MaybeToTensor  # noqa: E402
from torchvision.transforms import (  # noqa: E402
    CenterCrop,
    Compose,
    InterpolationMode,
    Normalize,
    Resize,
    ToTensor,
)
from torchvision.transforms.functional import pil_to_tensor, to_pil_image  # noqa: E402
from torchvision.transforms.v2.functional import resize  # noqa: E402

HUB_PREFIXES = ("hf-hub:", "hf_hub:")
CALIBRATION = "tiers.json"
PROBE = "probe"
FILTERS = Image.Resampling.__members__
MAX_QUICK_PIXELS = 4_000_000
"""pixels of the largest picture that PyTorch resizes; beyond, moving it costs more than is saved"""
QUICK_INTERPOLATIONS = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)
BUNDLED_MODELS = Path(__file__).parents[1] / "assets"


class LoadedModel(NamedTuple):
    """A classifier with its labels, transform and calibration."""

    module: Any
    """a timm VisionTransformer, in evaluation mode, float32, on the CPU."""
    architecture: str
    """timm's name of the architecture."""
    labels: tuple[str, ...]
    """one per class."""
    input_size: tuple[int, int, int]
    """channels, height and width of one image."""
    transform: Callable[[Image.Image], Tensor]
    """timm's own evaluation transform: RGB image -> (3, H, W)."""
    resize_side: int
    """pixels of the shorter side after the transform has resized, before it crops."""
    calibration: CalibrationFile | None
    """the calibrated tiers that lie beside the model, if any."""


def load(spec: str) -> LoadedModel:
    """Load a model with its labels and its evaluation transform.

    Args:
        spec: a bundled model's name, a folder with `config.json` and `model.safetensors` in timm's
            format, or a timm name such as `deit_small_patch16_224.fb_in1k`, which is downloaded.

    Raises:
        ModelLoadError: the model is not found, not reachable, or not a classifier, or a label of
            its classes is not one line of text.
    """
    try:
        module = timm.create_model(_source(spec), pretrained=True).eval()
    except ModelLoadError:
        raise
    except Exception as exc:
        raise ModelLoadError(f"cannot load the model {spec!r}: {exc}") from exc
    if not module.num_classes:
        raise ModelLoadError(f"{spec!r} has no classifier head, so it cannot name what it sees")
    config = resolve_model_data_config(module)
    return LoadedModel(
        module=module,
        architecture=module.pretrained_cfg.get("architecture") or spec,
        labels=_labels(module),
        input_size=tuple(config["input_size"]),
        transform=create_transform(**config, is_training=False),
        resize_side=round(max(config["input_size"][1:]) / config["crop_pct"]),
        calibration=_calibration(spec),
    )


def fingerprint(loaded: LoadedModel) -> str:
    """A text that changes with the weights, the labels, the transform or the calibration.

    It takes half a second for each gigabyte of weights.
    """
    weights = hashlib.sha256()
    for name, tensor in loaded.module.state_dict().items():
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    calibration = loaded.calibration and loaded.calibration.model_dump_json()
    rest = (loaded.labels, loaded.input_size, loaded.transform, calibration)
    return cache.fingerprint(weights.hexdigest(), loaded.architecture, *rest)


class QuickResize(NamedTuple):
    """torchvision's `Resize` of an RGB picture, computed by PyTorch instead of Pillow.

    Several times faster, with the same filter and the same geometry. The coefficients have 16 bits
    instead of 22, so a few values of a picture differ by 1 or 2 of 255.

    Source: docs/decisions/0011
    """

    size: int | Sequence[int]
    """pixels of the shorter side, which keeps the ratio of the sides; or height and width."""
    interpolation: InterpolationMode
    """BILINEAR or BICUBIC."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The RGB picture in its new size; the same object if it already has this size."""
        pixels = pil_to_tensor(picture)
        resized = resize(pixels, self.size, self.interpolation)
        return picture if resized is pixels else to_pil_image(resized)


def resizing_quickly(transform: Any) -> Any:
    """An evaluation transform of timm that resizes with PyTorch, where that is possible."""
    if type(transform) is not Compose:
        return transform
    return Compose([_quick(step) for step in transform.transforms])


def _quick(step: Any) -> Any:
    is_like_pillows = type(step) is Resize and step.interpolation in QUICK_INTERPOLATIONS
    if not is_like_pillows or step.max_size is not None:
        return step
    return QuickResize(step.size, step.interpolation)


def shrink_of(transform: Any) -> Shrink | None:
    """The resizing with which an evaluation transform of timm begins.

    None if it begins with anything but torchvision's `Resize`, by one of Pillow's filters.
    """
    if type(transform) is not Compose:
        return None
    first: Any = transform.transforms[0]
    if type(first) is QuickResize:
        return _shrink(first.size, first.interpolation)._replace(max_untouched=MAX_QUICK_PIXELS)
    if type(first) is Resize and first.max_size is None and first.interpolation.name in FILTERS:
        return _shrink(first.size, first.interpolation)
    return None


def cut_of(transform: Any) -> Cut | None:
    """The resizing and the square crop with which an evaluation transform of timm begins.

    None if it begins with anything else, or with a filter that only Pillow has.
    """
    if type(transform) is not Compose:
        return None
    match transform.transforms:
        case [first, crop, *_] if type(first) is Resize and type(crop) is CenterCrop:
            is_known = first.interpolation in QUICK_INTERPOLATIONS and first.max_size is None
            height, width = crop.size
            if is_known and isinstance(first.size, int) and height == width <= first.size:
                return Cut(first.size, width, FILTERS[first.interpolation.name].value)
    return None


def _shrink(size: int | Sequence[int], interpolation: InterpolationMode) -> Shrink:
    return Shrink(size, FILTERS[interpolation.name].value)


def split_normalization(
    transform: Any,
) -> tuple[Callable[[Image.Image], Tensor], Normalization] | None:
    """An evaluation transform of timm in two parts: RGB image -> bytes (3, H, W), and the rest.

    None if the transform does not end like timm's: conversion to a tensor, then normalisation.
    """
    if type(transform) is not Compose:
        return None
    match transform.transforms:
        case [*steps, convert, last] if (
            type(convert) in (MaybeToTensor, ToTensor) and type(last) is Normalize
        ):
            mean, std = (
                torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1)
                for values in (last.mean, last.std)
            )
            return Compose([*steps, _bytes]), Normalization(mean, std)
    return None


def _bytes(picture: Image.Image) -> Tensor:
    """RGB image -> (3, H, W), uint8."""
    pixels: Tensor = pil_to_tensor(picture)
    return pixels.contiguous()


def folder_of(spec: str) -> Path | None:
    """The folder that a model is loaded from; None if it is downloaded by its name."""
    if spec.startswith(HUB_PREFIXES):
        return None
    bundled = BUNDLED_MODELS / spec
    folder = bundled if bundled.is_dir() else Path(spec)
    return folder if folder.is_dir() or "/" in spec else None


def probe_folder(spec: str) -> Path | None:
    """The labelled pictures that lie beside a model, if any."""
    folder = folder_of(spec)
    return folder / PROBE if folder is not None and (folder / PROBE).is_dir() else None


def _calibration(spec: str) -> CalibrationFile | None:
    folder = folder_of(spec)
    if folder is None or not (folder / CALIBRATION).is_file():
        return None
    try:
        return CalibrationFile.model_validate_json((folder / CALIBRATION).read_text())
    except ValueError as exc:
        raise ModelLoadError(f"{folder / CALIBRATION} cannot be used: {exc}") from exc


def _source(spec: str) -> str:
    """The name by which timm finds the model."""
    folder = folder_of(spec)
    if folder is None:
        return spec  # timm refuses a name that it does not know
    # Only safetensors: a pickle from an unknown source can run code when it is read.
    missing = [
        name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()
    ]
    if missing:
        raise ModelLoadError(
            f"{spec!r} has no {' and no '.join(missing)}; a model folder holds both, "
            "as timm.models.save_for_hf(model, folder, safe_serialization=True) writes them"
        )
    return f"local-dir:{folder.resolve()}"


def _labels(module: Any) -> tuple[str, ...]:
    """One readable label per class, from the model's own configuration or from ImageNet.

    Raises:
        ModelLoadError: one of them is not one line of text.
    """
    config = module.pretrained_cfg
    names: Sequence[str] | None = config.get("label_names")
    descriptions = config.get("label_descriptions")
    subset = infer_imagenet_subset(module)
    if names and isinstance(descriptions, dict):
        names = [descriptions.get(name, name) for name in names]
    elif not names and subset:
        names = ImageNetInfo(subset).label_descriptions()
    if not names or len(names) != module.num_classes:
        names = [f"class {index}" for index in range(module.num_classes)]
    return labels.check(names)
