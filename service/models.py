"""Weights -> one runner per (method, r), over one copy of the weights."""

import re
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

import rapid_core
from service import timm_models
from service.errors import ModelLoadError, ModelNotFoundError
from service.measured import Measured
from service.model_statistics import ModelStatistics
from service.pixels import Normalization
from service.placement import Placement
from service.resizing import Resize
from service.tiers import CALIBRATED_METHOD, ReductionRange, Tier
from service.timm_models import LoadedModel

METHODS = tuple(rapid_core.METHODS)
MODEL_NAME = re.compile(r"[\w.:@+-]+", re.ASCII)


class Variant(NamedTuple):
    """A model with one reduction."""

    model: str
    method: str
    r: int | None
    """None where the schedule is not constant."""
    module: nn.Module
    """images (B, 3, H, W) -> logits (B, K)."""
    schedule: tuple[int, ...]
    """tokens that each block really removes."""
    num_output_tokens: int
    macs: int
    """multiply-adds of one image."""
    dtype: torch.dtype = torch.float32
    """that `module` wants its images in."""
    normalization: Normalization | None = None
    """of images that come as bytes; None if none do."""


class ServedModel:
    """One model and all its variants, which share its weights. May be used from any thread."""

    def __init__(self, name: str, loaded: LoadedModel, placement: Placement) -> None:
        """Move the weights to where they are used.

        Raises:
            ModelLoadError: the tokens of this model cannot be reduced, or its calibration is of
                another model.
        """
        self.name = name
        self.statistics = ModelStatistics()
        self.measured: Mapping[Tier, Measured] = {}
        """what the last complete probe found"""
        self.architecture = loaded.architecture
        self.labels = loaded.labels
        self.input_size = loaded.input_size
        self.transform: Callable[[Image.Image], Tensor] = loaded.transform
        """RGB image -> (3, H, W), float32, normalised"""
        self.decode_transform, self._normalization = _decoding(self.transform, placement)
        self.resize_side = loaded.resize_side
        self._variants: dict[tuple[str, int | None, Tier | None], Variant] = {}
        self._calibrated = dict(loaded.calibration.tiers) if loaded.calibration else {}
        self._lock = Lock()
        try:
            self.dense_macs = rapid_core.macs(loaded.module)
        except rapid_core.RapidError as exc:
            raise ModelLoadError(f"cannot serve {name!r}: {exc}") from exc
        self._module = placement.place(loaded.module.requires_grad_(requires_grad=False))
        self._dtype = placement.dtype
        self._fused_kernels = placement.backend == "triton"
        num_patches: int = loaded.module.patch_embed.num_patches
        num_blocks: int = len(loaded.module.blocks)
        self.num_prefix_tokens: int = loaded.module.num_prefix_tokens
        self.num_tokens = num_patches + self.num_prefix_tokens
        self.limits = ReductionRange(
            METHODS, num_patches, num_blocks, num_patches // 2, frozenset(self._calibrated)
        )
        self._check_calibration(num_blocks)

    def _check_calibration(self, num_blocks: int) -> None:
        """Refuse a calibration of another model now rather than when its tier is asked for."""
        for tier in self._calibrated:
            try:
                self.variant(CALIBRATED_METHOD, None, tier)
            except rapid_core.RapidError as exc:
                raise ModelLoadError(
                    f"cannot serve {self.name!r}: its calibrated tier {tier!r} is not for a "
                    f"model of {num_blocks} blocks: {exc}"
                ) from exc

    def variant(self, method: str, r: int | None, tier: Tier | None = None) -> Variant:
        """The model with one reduction; made at the first call, then kept.

        There are at most `len(METHODS) * (max_r + 1) + len(TIERS)` of them, a few kilobytes each.

        Args:
            method: one of `METHODS`.
            r: tokens to remove in every block; None for the calibrated schedule of `tier`.
            tier: without effect where r is given.
        """
        key = (method, r, None if r is not None else tier)
        with self._lock:
            if key not in self._variants:
                self._variants[key] = self._patch(*key)
            return self._variants[key]

    def agreement(self, tier: Tier) -> float | None:
        """Share of held-out pictures that a calibrated tier answers as the unreduced model."""
        return self._calibrated[tier].agreement if tier in self._calibrated else None

    def macs_ratio(self, variant: Variant) -> float:
        """Multiply-adds of a variant over those of the unreduced model."""
        return round(variant.macs / self.dense_macs, 4)

    def _patch(self, method: str, r: int | None, tier: Tier | None) -> Variant:
        module: Any = rapid_core.patch(
            self._module,
            method=method,
            prefix_only=self._module.global_pool == "token",
            fused_kernels=self._fused_kernels,
            **({"r": r} if r is not None else self._options(tier)),
        )
        schedule = rapid_core.removed_per_block(
            num_tokens=self.num_tokens,
            num_prefix_tokens=self.num_prefix_tokens,
            schedule=module.blocks.reduction.schedule,
        )
        return Variant(
            model=self.name,
            method=method,
            r=r,
            module=module,
            schedule=schedule,
            num_output_tokens=self.num_tokens - sum(schedule),
            macs=rapid_core.macs(module),
            dtype=self._dtype,
            normalization=self._normalization,
        )

    def _options(self, tier: Tier | None) -> dict[str, Any]:
        assert tier is not None
        return self._calibrated[tier].model_dump(exclude={"macs_ratio", "agreement"})


def _decoding(
    transform: Callable[[Image.Image], Tensor], placement: Placement
) -> tuple[Callable[[Image.Image], Tensor], Normalization | None]:
    """What the threads that decode do of a transform, and what is left to the device, if any."""
    split = timm_models.split_normalization(transform) if placement.normalizes else None
    if split is None:
        return transform, None
    to_bytes, normalization = split
    return to_bytes, normalization.to(placement.device)


class Models:
    """All loaded models by name; the first is the default."""

    def __init__(self) -> None:
        """Start with none."""
        self._models: dict[str, ServedModel] = {}

    def add(self, model: ServedModel) -> None:
        """Serve one more model.

        Raises:
            ModelLoadError: another one has the same name.
        """
        if model.name in self._models:
            raise ModelLoadError(
                f"two models are called {model.name!r}; give one another name: `other-name=...`"
            )
        self._models[model.name] = model

    def find(self, name: str | None) -> ServedModel:
        """The model of that name, or the first one for None.

        Raises:
            ModelNotFoundError: no such model.
        """
        name = next(iter(self._models), None) if name is None else name
        if name not in self._models:
            raise ModelNotFoundError(
                f"no model {name!r} here; there are: {', '.join(self._models)}"
            )
        return self._models[name]

    def __iter__(self) -> Iterator[ServedModel]:
        """In the order of the setting."""
        return iter(self._models.values())


def name_and_spec(setting: str) -> tuple[str, str]:
    """Split one entry of RAPID_MODELS: `name=spec`, or a spec that names itself.

    A folder or a repository is called by the last part of its path.

    Raises:
        ModelLoadError: a name that could not stand in a path of the API.
    """
    name, found, spec = (part.strip() for part in setting.partition("="))
    if found:
        if not MODEL_NAME.fullmatch(name):
            raise ModelLoadError(
                f"{name!r} cannot be a model's name; allowed are letters, digits and . _ - + @ :"
            )
        return name, spec
    return setting.rstrip("/").rpartition("/")[-1], setting


def load(setting: str, placement: Placement, resize: Resize = "pillow") -> ServedModel:
    """Load one entry of RAPID_MODELS.

    Args:
        setting: a name and where the model is.
        placement: where and how it computes.
        resize: what makes pictures as large as the model wants them.

    Raises:
        ModelLoadError: it cannot be served.
    """
    name, spec = name_and_spec(setting)
    loaded = timm_models.load(spec)
    if resize == "torch":
        loaded = loaded._replace(transform=timm_models.resizing_quickly(loaded.transform))
    return ServedModel(name, loaded, placement)
