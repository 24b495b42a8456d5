"""What a picture may cost where nobody sets another limit."""

MAX_PIXELS = 50_000_000
"""most pixels of one image, before and after resizing"""
