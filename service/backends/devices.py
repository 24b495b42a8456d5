"""Whether this machine has the device that was asked for, and what it is called."""

import torch

from service.errors import SettingsError


def check(device: str) -> None:
    """Refuse a GPU that does not exist. PyTorch would say so only when a model is moved there.

    Args:
        device: as the setting names it: `auto`, `cpu`, `cuda`, `cuda:1`.

    Raises:
        SettingsError: there is no such GPU, or PyTorch cannot use it.
    """
    if not device.startswith("cuda"):
        return
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (torch.device(device).index or 0) >= num_gpus:
        raise SettingsError(f"there is no device {device}; PyTorch sees {num_gpus} GPUs here")


def name(device: torch.device) -> str:
    """The kind of a GPU; empty for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""
