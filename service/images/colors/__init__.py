"""What becomes of pixels: 8 bits a channel, sRGB, on white.

These steps get decoded pixels; they must not read files.
"""
