"""Colours of a picture -> sRGB, as a viewer shows them.

A file may bring an ICC profile that says what its numbers mean. LittleCMS converts them, with the
perceptual intent: browsers and viewers do the same, and a profile that holds a matrix and curves
has no other. A profile that is damaged, enormous or made for other pixels is ignored.

Source: docs/decisions/0005
"""

import io
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from threading import Lock

from PIL import Image, ImageChops, ImageCms

from service.images.options import Color

MAX_PROFILE_BYTES = 4 * 2**20
"""Larger profiles are ignored. A display's has some hundred bytes, a press' about two million."""
MAX_TRANSFORMS = 32
"""profiles to remember; a transform takes up to about 1 MiB"""
SAME_LEVELS = 2
"""Two ways of writing sRGB differ by this much of 255 at most; a gamma of 2.2 differs by 7."""
PLAIN = {"PA": "RGBA", "RGBa": "RGBA", "La": "LA", "RGBX": "RGB", "YCbCr": "RGB"}
"""mode -> the one to convert first"""
SPACES = {"L": ("GRAY",), "RGB": ("RGB ",), "RGBA": ("RGB ",), "CMYK": ("CMYK",), "LAB": ("Lab ",)}
"""mode -> the colour spaces of profiles for it"""
CLASSES = ("scnr", "mntr", "prtr", "spac", "abst")
"""kinds of profiles that say what the numbers of a picture mean; CIELAB's own is abstract"""
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
"""the profile of pictures whose pixels are CIELAB, which need none of their own"""

Transform = ImageCms.ImageCmsTransform


def to_srgb(image: Image.Image, color: Color) -> Image.Image:
    """The picture with the colours of sRGB; the same object where there is nothing to convert.

    Args:
        image: a decoded picture of 8 bits a channel. Its alpha and its palette's indices stay. It
            may be changed in place.
        color: `ignore` leaves the picture as it is.
    """
    if color == "ignore":
        return image
    profile = LAB if image.mode == "LAB" else image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not 0 < len(profile) <= MAX_PROFILE_BYTES:
        return image
    return _converted(image, profile)


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    match image.mode:
        case "P":
            return _with_palette(image, profile)
        case "L" | "LA":
            return _with_greys(image, profile)
        case "RGB" | "RGBA":
            if transform := TRANSFORMS.find(profile, image.mode):
                transform.apply_in_place(image)
        case "CMYK" | "LAB":
            if transform := TRANSFORMS.find(profile, image.mode):
                return transform.apply(image)
        case mode if mode in PLAIN:
            return _converted(image.convert(PLAIN[mode]), profile)
    return image


def _with_palette(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert the colours of the palette instead of the pixels."""
    if image.palette is None or image.palette.mode != "RGB":
        return _converted(image.convert("RGBA"), profile)
    if transform := TRANSFORMS.find(profile, "RGB"):
        colours = bytes(image.getpalette() or ())
        strip = Image.frombytes("RGB", (len(colours) // 3, 1), colours)
        image.putpalette(transform.apply(strip).tobytes())
    return image


def _with_greys(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert the 256 greys instead of the pixels; grey stays grey."""
    ramp = _ramp()
    if transform := TRANSFORMS.find(profile, "L"):
        converted = transform.apply(ramp)
    elif transform := TRANSFORMS.find(profile, "RGB"):
        converted = transform.apply(ramp.convert("RGB"))
    else:
        return image
    levels = list(converted.getchannel("G").tobytes())
    return image.point(levels if image.mode == "L" else levels + list(range(256)))


class Transforms:
    """The transforms to sRGB of the profiles that came last. May be used from any thread."""

    def __init__(self, most: int = MAX_TRANSFORMS) -> None:
        self._most = most
        self._known: OrderedDict[tuple[bytes, str], Transform | None] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._known)

    def find(self, profile: bytes, mode: str) -> Transform | None:
        """The transform for pixels of a mode; None where they are to stay as they are.

        Args:
            profile: an ICC profile.
            mode: a key of `SPACES`.
        """
        key = (blake2b(profile, digest_size=32).digest(), mode)
        with self._lock:
            if key not in self._known:
                self._known[key] = _build(profile, mode)
            self._known.move_to_end(key)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
            return self._known[key]


TRANSFORMS = Transforms()


def _build(profile: bytes, mode: str) -> Transform | None:
    """The transform to sRGB; None if the profile is sRGB itself or cannot be used."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        kind = source.profile
        if kind.xcolor_space not in SPACES[mode] or kind.device_class.strip() not in CLASSES:
            return None
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        output = "RGBA" if mode == "RGBA" else "RGB"
        transform = Transform(source, srgb, mode, output, ImageCms.Intent.PERCEPTUAL)
    except (OSError, ValueError):  # it is damaged: a viewer shows the numbers as they are
        return None
    return None if _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: Transform, mode: str) -> bool:
    if mode not in _SAMPLES:
        return False
    samples = _SAMPLES[mode]()
    converted = transform.apply(samples)
    difference = ImageChops.difference(converted.convert("RGB"), samples.convert("RGB"))
    return difference.point(lambda levels: max(0, levels - SAME_LEVELS)).getbbox() is None


def _ramp() -> Image.Image:
    """The 256 greys."""
    return Image.frombytes("L", (256, 1), bytes(range(256)))


def _cube() -> Image.Image:
    """Colours all over the cube, 9 levels a channel, and the 256 greys."""
    levels = [255 * step // 8 for step in range(9)]
    colours = [(red, green, blue) for red in levels for green in levels for blue in levels]
    colours += [(grey, grey, grey) for grey in range(256)]
    return Image.frombytes("RGB", (len(colours), 1), bytes(value for c in colours for value in c))


_SAMPLES: dict[str, Callable[[], Image.Image]] = {
    "L": _ramp,
    "RGB": _cube,
    "RGBA": lambda: _cube().convert("RGBA"),
}
"""mode -> pixels by which sRGB is recognised"""
