"""What decoding takes is told from the header, and it is never more than told."""

import io
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from PIL import Image

from service.images.processes import memory

SIDE = 224
SIZE = (1500, 1300)
MEASURE = """
import sys
from PIL import Image
Image.preinit(); Image.init()
from service.images import rgb
from service.images.processes import memory
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
body = sys.stdin.buffer.read()
told = memory.needed_to_open(body)
def tell(image):
    global told
    told = max(told, memory.needed(image, 224, len(body)))
before = peak() - len(body)
rgb.read(body, 224, before_pixels=tell)
print(told, peak() - before)
"""


@cache
def noise(mode: str) -> Image.Image:
    """Pixels that no format packs well, opaque or not."""
    grey = Image.effect_noise((500, 433), 90).resize(SIZE, Image.Resampling.NEAREST)
    if mode == "I;16":
        return Image.frombytes("I;16", SIZE, grey.tobytes() * 2)
    return Image.merge("RGBA", [grey] * 4).convert(mode)


def saved(mode: str, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    noise(mode).save(file, file_format, **options)
    return file.getvalue()


def transposed(file_format: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved("RGB", file_format, exif=exif)


FILES: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: saved("RGB", "JPEG"),
    "progressive JPEG": lambda: saved("RGB", "JPEG", progressive=True, subsampling=0),
    "JPEG in CMYK": lambda: saved("CMYK", "JPEG"),
    "PNG": lambda: saved("RGB", "PNG", compress_level=1),
    "PNG with alpha": lambda: saved("RGBA", "PNG", compress_level=1),
    "PNG of 16 bits": lambda: saved("I;16", "PNG", compress_level=1),
    "PNG with a palette": lambda: saved("P", "PNG", transparency=0, compress_level=1),
    "turned PNG": lambda: transposed("PNG"),
    "WebP": lambda: saved("RGB", "WEBP", method=0),
    "WebP with alpha": lambda: saved("RGBA", "WEBP", method=0),
    "lossless WebP": lambda: saved("RGBA", "WEBP", lossless=True, method=0, quality=0),
    "GIF": lambda: saved("P", "GIF", transparency=0),
    "BMP": lambda: saved("RGB", "BMP"),
    "TIFF": lambda: saved("RGB", "TIFF"),
    "TIFF with alpha": lambda: saved("RGBA", "TIFF", compression="tiff_lzw"),
    "TIFF of 16 bits": lambda: saved("I;16", "TIFF"),
    "AVIF": lambda: saved("RGB", "AVIF", speed=10, quality=50),
    "AVIF with alpha": lambda: saved("RGBA", "AVIF", speed=10, subsampling="4:4:4"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", FILES)
def test_no_picture_takes_more_memory_than_its_header_tells(kind: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEASURE], input=FILES[kind](), capture_output=True, check=True
    )
    told, taken = map(int, run.stdout.split())
    assert taken <= told
    assert told <= 4 * taken + memory.OVERHEAD, "so much would keep out pictures that fit"


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}])
@pytest.mark.parametrize("size", [(1, 1), (300, 200), (16383, 1)])
def test_the_size_of_a_webp_is_known_before_it_is_opened(
    size: tuple[int, int], options: dict[str, Any]
) -> None:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "WEBP", **options)
    body = file.getvalue()
    told = memory.needed_to_open(body) - memory.OVERHEAD - 2 * len(body)
    assert told == size[0] * size[1] * (4 + memory.RESULT + memory.INSIDE["WEBP"])


def test_other_files_take_nothing_when_they_are_opened() -> None:
    assert memory.needed_to_open(b"") == memory.needed_to_open(b"\xff\xd8\xff") == 0
