"""HEIC and HEIF, as phones take them, by the optional package pillow-heif.

The package is imported when the first such picture comes. It gives the picture upright, and takes
the rotation out of the EXIF block, so that it is not applied twice.

Source: ISO/IEC 23008-12, annex B; docs/decisions/0003
"""

from functools import cache
from importlib.util import find_spec

from service.errors import ImageRejectedError
from service.images.options import FORMATS

PACKAGE = "pillow_heif"
FORMAT = "HEIF"
"""the package's name for the format"""
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
SUFFIXES = {".heic", ".heif"}
MAX_BRANDS = 32
"""brands of a file that are looked at"""
MISSING = (
    "this is a HEIC picture, which this service was installed without: its operator adds the extra "
    "`heic` (pip install 'rapid-vit[heic]', or the build argument EXTRAS=heic of the Docker "
    "image); until then, send JPEG or PNG"
)


def is_heic(body: bytes) -> bool:
    """Whether a file says that it is HEIC or HEIF, and not AVIF."""
    return body[4:8] == b"ftyp" and body[8:12] in BRANDS and not is_avif(body)


def is_avif(body: bytes) -> bool:
    """Whether a file says that it is AVIF."""
    return any(brand in AVIF_BRANDS for brand in _brands(body))


def is_installed() -> bool:
    """Whether the package is there."""
    return find_spec(PACKAGE) is not None


def formats(body: bytes) -> tuple[str, ...]:
    """The formats that Pillow may try on a file.

    Raises:
        ImageRejectedError: the file is HEIC, and the package is not installed.
    """
    if not is_heic(body):
        return FORMATS
    _register()
    return (FORMAT,)


def _brands(body: bytes) -> list[bytes]:
    """The brands of an ISO media file, the major one first; none for any other file."""
    if body[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(body[:4]), len(body), 16 + 4 * MAX_BRANDS)
    return [body[8:12], *(body[at : at + 4] for at in range(16, end - 3, 4))]


@cache
def _register() -> None:
    """Teach Pillow the format.

    Raises:
        ImageRejectedError: the package is not installed.
    """
    try:
        import pillow_heif
    except ImportError as exc:
        raise ImageRejectedError(MISSING) from exc
    pillow_heif.register_heif_opener(
        decode_threads=1, thumbnails=False, depth_images=False, aux_images=False
    )
