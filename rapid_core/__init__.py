"""Token reduction for timm Vision Transformers, without retraining: RAPID, ToMe and others.

>>> fast = rapid_core.patch(model, r=11)  # shares the weights; `model` stays as it was
>>> logits = fast(images)

The one job of this package: give a timm model a reduction schedule, and say what the schedule
costs and does. It must not know timm, the service, or how images are read. It reads a model's
attributes and imports torch alone; only `matching.kernels` imports Triton, where there is a GPU.
"""

from rapid_core.calibration import Calibration, calibrate
from rapid_core.cost import macs
from rapid_core.errors import InvalidScheduleError, RapidError, UnsupportedModelError
from rapid_core.methods import METHODS
from rapid_core.patch import patch
from rapid_core.schedule import removed_per_block, token_counts
from rapid_core.tracing import TokenTrace, trace

__all__ = [
    "METHODS",
    "Calibration",
    "InvalidScheduleError",
    "RapidError",
    "TokenTrace",
    "UnsupportedModelError",
    "calibrate",
    "macs",
    "patch",
    "removed_per_block",
    "token_counts",
    "trace",
]
