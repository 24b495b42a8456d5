"""What can be chosen for decoding. It imports nothing, so that a command line reads it quickly."""

from typing import Literal

MAX_PIXELS = 50_000_000
"""most pixels of one image, before and after resizing, where nobody sets another limit"""

Resize = Literal["pillow", "torch"]
"""what makes pictures as large as the model wants them"""
