"""A loaded model and its variants: one for each reduction, over one copy of the weights."""

from collections.abc import Callable
from threading import Lock
from typing import Any

from PIL import Image
from torch import Tensor

import rapid_core
from service import cache, tiers
from service.backends.contract import Variant
from service.backends.pixels import Normalization
from service.backends.placement import Placement
from service.errors import ModelLoadError
from service.images import resample
from service.images.decode import InputSpec
from service.images.options import COLOR, Color
from service.images.resample import Resampling
from service.models import timm_models
from service.models.timm_models import LoadedModel
from service.tiers import CALIBRATED_METHOD, ReductionRange, Tier

PictureToTensor = Callable[[Image.Image], Tensor]
METHODS = tuple(rapid_core.METHODS)


class ServedModel:
    """One model and all its variants, which share its weights. May be used from any thread."""

    def __init__(
        self, name: str, loaded: LoadedModel, placement: Placement, color: Color = COLOR
    ) -> None:
        """Move the weights to the device.

        Args:
            name: what requests call it.
            loaded: the model.
            placement: where and how it computes.
            color: what becomes of a picture's colour profile.

        Raises:
            ModelLoadError: the tokens of this model cannot be reduced, or its calibration is that
                of another model.
        """
        self.name = name
        self.fingerprint = cache.fingerprint(timm_models.fingerprint(loaded), *placement)
        """changes with weights, labels, transform, calibration, and with how the model computes"""
        self.architecture = loaded.architecture
        self.labels = loaded.labels
        self.input_size = loaded.input_size
        self.transform: PictureToTensor = loaded.transform
        """RGB image -> (3, H, W), float32, normalised"""
        steps, finish, self._normalization = _decoding(self.transform, placement)
        self.input_spec = InputSpec(
            steps,
            loaded.resize_side,
            color,
            timm_models.shrink_of(self.transform),
            _resampling(loaded, steps, finish),
        )
        """the input that decoding makes of a picture"""
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
        """Refuse the calibration of another model now, not when a request names its tier."""
        for tier in self._calibrated:
            try:
                self.variant(CALIBRATED_METHOD, None, tier)
            except rapid_core.RapidError as exc:
                raise ModelLoadError(
                    f"cannot serve {self.name!r}: its calibrated tier {tier!r} is not for a "
                    f"model of {num_blocks} blocks: {exc}"
                ) from exc

    def variant(self, method: str, r: int | None, tier: Tier | None = None) -> Variant:
        """The model with one reduction. The first call makes it, and later calls return the same.

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

    def at(self, tier: Tier, method: str = CALIBRATED_METHOD) -> Variant:
        """The model with the reduction that a tier means for it.

        Raises:
            InvalidParameterError: an unknown method.
        """
        return self.variant(*tiers.of_tier(self.limits, tier, method))

    def agreement(self, tier: Tier) -> float | None:
        """Share of held-out pictures that a calibrated tier answers as the unreduced model."""
        return self._calibrated[tier].agreement if tier in self._calibrated else None

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
        macs = rapid_core.macs(module)
        return Variant(
            model=self.name,
            method=method,
            r=r,
            module=module,
            schedule=schedule,
            num_output_tokens=self.num_tokens - sum(schedule),
            macs=macs,
            macs_ratio=round(macs / self.dense_macs, 4),
            dtype=self._dtype,
            normalization=self._normalization,
        )

    def _options(self, tier: Tier | None) -> dict[str, Any]:
        assert tier is not None
        return self._calibrated[tier].model_dump(exclude={"macs_ratio", "agreement"})


def _decoding(
    transform: PictureToTensor, placement: Placement
) -> tuple[PictureToTensor, Callable[[Tensor], Tensor] | None, Normalization | None]:
    """The steps of a transform for the decoding threads, and those left to the device, if any.

    The second one is what the threads do with levels 0 ... 255 that are resized and cropped.
    """
    split = timm_models.split_normalization(transform)
    if split is None:
        return transform, None, None
    to_bytes, normalization = split
    if placement.normalizes:
        return to_bytes, Tensor.byte, normalization.to(placement.device)
    return transform, normalization, None


def _resampling(
    loaded: LoadedModel,
    transform: PictureToTensor,
    finish: Callable[[Tensor], Tensor] | None,
) -> Resampling | None:
    """The steps for the decoding threads, for a part of a picture; None: they need all of it."""
    cut = timm_models.cut_of(loaded.transform)
    if cut is None or finish is None or not resample.agrees(cut):
        return None
    return Resampling(transform, cut, finish)
