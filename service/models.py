"""Weights -> one runner per (method, r), over one copy of the weights."""

from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

import rapid_core
from service import timm_models
from service.errors import ModelLoadError, ModelNotFoundError
from service.tiers import ReductionRange
from service.timm_models import LoadedModel

METHODS = tuple(rapid_core.METHODS)


class Variant(NamedTuple):
    """A model with one reduction."""

    model: str
    method: str
    r: int
    module: nn.Module
    """images (B, 3, H, W) -> logits (B, K)."""
    schedule: tuple[int, ...]
    """tokens that each block really removes."""
    num_output_tokens: int
    macs: int
    """multiply-adds of one image."""


class ServedModel:
    """One model and all its variants, which share its weights. May be used from any thread."""

    def __init__(self, name: str, loaded: LoadedModel, device: torch.device) -> None:
        """Move the weights to the device.

        Raises:
            ModelLoadError: the tokens of this model cannot be reduced.
        """
        self.name = name
        self.architecture = loaded.architecture
        self.labels = loaded.labels
        self.input_size = loaded.input_size
        self.transform: Callable[[Image.Image], Tensor] = loaded.transform
        self.resize_side = loaded.resize_side
        self._module = loaded.module.to(device).requires_grad_(requires_grad=False)
        self._variants: dict[tuple[str, int], Variant] = {}
        self._lock = Lock()
        try:
            self.dense_macs = rapid_core.macs(self._module)
        except rapid_core.RapidError as exc:
            raise ModelLoadError(f"cannot serve {name!r}: {exc}") from exc
        num_patches: int = loaded.module.patch_embed.num_patches
        num_blocks: int = len(loaded.module.blocks)
        self.num_prefix_tokens: int = loaded.module.num_prefix_tokens
        self.num_tokens = num_patches + self.num_prefix_tokens
        self.limits = ReductionRange(METHODS, num_patches, num_blocks, max_r=num_patches // 2)

    def variant(self, method: str, r: int) -> Variant:
        """The model with one reduction; made at the first call, then kept.

        There are at most `len(METHODS) * (max_r + 1)` of them, each of a few kilobytes.
        """
        with self._lock:
            if (method, r) not in self._variants:
                self._variants[method, r] = self._patch(method, r)
            return self._variants[method, r]

    def _patch(self, method: str, r: int) -> Variant:
        module: Any = rapid_core.patch(self._module, r=r, method=method)
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
        )


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
    """
    name, found, spec = setting.partition("=")
    if found:
        return name.strip(), spec.strip()
    return setting.rstrip("/").rpartition("/")[-1], setting


def load(setting: str, device: torch.device) -> ServedModel:
    """Load one entry of RAPID_MODELS.

    Raises:
        ModelLoadError: it cannot be served.
    """
    name, spec = name_and_spec(setting)
    return ServedModel(name, timm_models.load(spec), device)
