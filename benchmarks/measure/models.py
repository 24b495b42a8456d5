"""Models to measure: architectures of timm with random weights, which do not change the time."""

from pathlib import Path

import torch

from service.models.timm_models import timm


def save_random(name: str, folder: Path) -> None:
    """A model of timm with random weights from a fixed seed, in timm's folder format."""
    if (folder / "config.json").is_file():
        return
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False)
    timm.models.save_for_hf(
        module,
        folder,
        model_config={"pretrained_cfg": module.pretrained_cfg},
        safe_serialization=True,
    )
