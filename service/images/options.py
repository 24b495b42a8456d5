"""The options for decoding. It imports no library, so that a command starts quickly."""

from typing import Literal

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""the formats that are read, by Pillow's names"""

MAX_PIXELS = 50_000_000
"""default for the most pixels of one image, before and after resizing"""

Resize = Literal["pillow", "torch"]
"""the library that resizes pictures to the input size of the model"""

DECODE_TIMEOUT_S = 5.0
"""default for the longest time that decoding one picture may take, waiting not included"""
DECODE_MEMORY_MIB = 1536
"""default for the most MiB that all pictures being decoded may take together"""
Color = Literal["srgb", "ignore"]
"""what becomes of colour profiles: converted to sRGB as a viewer does, or ignored as timm does"""
COLOR: Color = "srgb"
"""the default"""
