"""Colours that a file names by numbers instead of a profile -> an ICC profile.

As browsers do: the code points of AVIF, HEIF and PNG (cICP) count if they ask for other primaries
than sRGB's; gAMA of a PNG counts together with cHRM, unless sRGB stands beside them.

Source: ITU-T H.273, tables 2 and 3; PNG (third edition), 11.3.2
"""

from PIL import Image

from service.images.colors.profiles import BT_2020, DISPLAY_P3, Primaries, matrix_profile

PRIMARIES = {9: BT_2020, 12: DISPLAY_P3}
"""code point -> primaries; those of television and sRGB are taken for sRGB's"""
GAMMAS = {1: None, 4: 2.2, 6: None, 8: 1.0, 13: None, 14: None, 15: None}
"""code point -> exponent, None for the curve of sRGB. PQ and HLG are not here: what they become on
a screen of the common range is each viewer's own choice."""
HEAD = 4096
"""bytes at the start of a file in which the code points are looked for"""
NCLX = b"colrnclx"
CICP = b"\0\0\0\x04cICP"
LIKE_SRGB = 0.05
"""share by which an exponent may differ from 2.2 and still mean the curve of sRGB"""


def note(image: Image.Image, body: bytes) -> None:
    """Give a picture without a profile the one that its file describes, if that is not sRGB.

    Args:
        image: the opened picture.
        body: its file.
    """
    if image.info.get("icc_profile") or image.format not in ("PNG", "AVIF", "HEIF"):
        return
    try:
        profile = _by_code_points(body[:HEAD]) or _by_chromaticities(image)
    except ValueError:  # primaries of no colours: a viewer ignores them
        return
    if profile:
        image.info["icc_profile"] = profile


def _by_code_points(head: bytes) -> bytes | None:
    at = head.find(NCLX)
    if at >= 0:
        numbers = head[at + len(NCLX) :]
        primaries, transfer = (int.from_bytes(numbers[i : i + 2]) for i in (0, 2))
    else:
        at = head.find(CICP)
        numbers = head[at + len(CICP) :] if at >= 0 else b""
        primaries, transfer = (int.from_bytes(numbers[i : i + 1]) for i in (0, 1))
    if primaries not in PRIMARIES or transfer not in GAMMAS:
        return None
    return matrix_profile(PRIMARIES[primaries], GAMMAS[transfer])


def _by_chromaticities(image: Image.Image) -> bytes | None:
    """The profile that gAMA and cHRM of a PNG describe.

    Raises:
        ValueError: they are no colours.
    """
    gamma, numbers = image.info.get("gamma"), image.info.get("chromaticity", ())
    if not gamma or len(numbers) != 8 or "srgb" in image.info:
        return None
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    like_srgb = abs(2.2 * gamma - 1) <= LIKE_SRGB
    return matrix_profile(Primaries(*pairs), None if like_srgb else 1 / gamma)
