"""What decoding a picture costs by each way of resizing, and stage by stage.

    python -m benchmarks.decoding --out benchmarks/results/decoding-cpu.json

One thread, the example photos at several sizes and in several formats; the ways take turns, quoted
are medians. `ratio`, `share_differs` and `largest_difference` (of 255) compare PyTorch's resizing
with Pillow's, both in the service. `pool_ms` is the service's default, by a process of its pool and
with the way there and back; `by_pillow_ms` is the same with Pillow resizing in the process, and
`pool_ratio` is their quotient.

The stages: `read_ms`, file to RGB; then either `pillow_resize_ms`, in the process, and `rest_ms`,
the other steps of the transform; or `columns_ms`, in the process, and `resample_ms`, all steps.
"""

import argparse
import asyncio
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from benchmarks.measure import environment, tables
from service.backends.malloc import keep_freed_memory
from service.backends.placement import CPU
from service.images import rgb
from service.images.cut import Columns
from service.images.decode import InputSpec, decode
from service.images.pool import DecodePool
from service.load.request import EXAMPLES, load_images
from service.models import catalog

T = TypeVar("T")
MODEL = "everyday-vit-s14"
LARGE = 2000
"""pixels of a width from which on fewer photos are measured"""
COLUMNS = (
    "size",
    "pillow_ms",
    "torch_ms",
    "by_pillow_ms",
    "pool_ms",
    "pool_ratio",
    "ratio",
    "share_differs",
    "largest_difference",
)
STAGES = ("size", "read_ms", "pillow_resize_ms", "rest_ms", "columns_ms", "resample_ms")
PICTURES: tuple[tuple[tuple[int, int], str, dict[str, Any]], ...] = (
    ((320, 240), "JPEG", {"quality": 90}),
    ((640, 480), "JPEG", {"quality": 90}),
    ((640, 480), "PNG", {}),
    ((640, 480), "WEBP", {"quality": 85}),
    ((1280, 960), "JPEG", {"quality": 90}),
    ((3840, 2880), "JPEG", {"quality": 90}),
    ((4000, 3000), "JPEG", {"quality": 90}),
)


def main() -> int:
    """Print a table, and write JSON where it is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the service does
    pillow, quick = catalog.load(MODEL, CPU), catalog.load(MODEL, CPU, "torch")
    specs = {"pillow": pillow.input_spec, "torch": quick.input_spec}
    # A level of 255 after timm's normalisation, which divides each channel by its deviation.
    levels = 255 * pillow.transform.transforms[-1].std  # type: ignore[attr-defined] # of timm
    rows = asyncio.run(measured(specs, levels.view(-1, 1, 1), arguments.rounds))
    print(tables.of(rows, COLUMNS))
    print(tables.of(rows, STAGES))
    environment.write(arguments.out, {"rounds": arguments.rounds, "rows": rows})
    return 0


async def measured(
    specs: dict[str, InputSpec], levels: Tensor, num_rounds: int
) -> list[dict[str, Any]]:
    """A row for each size and format."""
    pool = DecodePool(1)
    rows = []
    for size, file_format, options in tqdm(PICTURES, disable=None):
        files = [saved(photo, size, file_format, options) for photo in photos(size)]
        milliseconds, quotients = await times(files, specs, num_rounds, pool)
        rows.append(
            {
                "size": f"{size[0]} x {size[1]} {file_format}",
                **milliseconds,
                **quotients,
                **differences(files, specs, levels),
                **stages(files, specs["pillow"], num_rounds),
            }
        )
    pool.close()
    return rows


def photos(size: tuple[int, int]) -> list[bytes]:
    """The example photos; fewer where they are large."""
    found = [image.content for image in load_images([EXAMPLES])]
    return found if size[0] < LARGE else found[:4]


async def times(
    files: list[bytes], specs: dict[str, InputSpec], num_rounds: int, pool: DecodePool
) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of a picture by each way, and the quotients of two pairs of ways."""
    pillow = specs["pillow"]
    in_pool = {"by_pillow": pillow._replace(resampling=None), "pool": pillow}
    seconds: dict[str, list[float]] = {name: [] for name in (*specs, *in_pool)}
    for number in range(num_rounds + 1):
        for name, taken in seconds.items():
            started = time.perf_counter()
            for file in files:
                if name in in_pool:
                    await pool.decode(file, in_pool[name], MODEL)
                else:
                    decode(file, specs[name])
            if number > 0:  # the first does not count
                taken.append((time.perf_counter() - started) / len(files))

    def quotient(first: str, second: str) -> float:
        pairs = zip(seconds[first], seconds[second], strict=True)
        return round(statistics.median(one / other for one, other in pairs), 3)

    return {f"{name}_ms": milliseconds(taken) for name, taken in seconds.items()}, {
        "pool_ratio": quotient("pool", "by_pillow"),
        "ratio": quotient("pillow", "torch"),
    }


def differences(
    files: list[bytes], specs: dict[str, InputSpec], levels: Tensor
) -> dict[str, float]:
    """How the pictures that PyTorch resizes differ from Pillow's."""
    differs = torch.stack(
        [
            ((decode(file, specs["torch"]) - decode(file, specs["pillow"])) * levels).abs().round()
            for file in files
        ]
    )
    return {
        "share_differs": round((differs > 0).float().mean().item(), 6),
        "largest_difference": int(differs.max()),
    }


def stages(files: list[bytes], spec: InputSpec, num_rounds: int) -> dict[str, float]:
    """Milliseconds of each stage for a picture; those that it has not are left out."""
    pictures = [rgb.read(file, spec.resize_side) for file in files]
    assert spec.shrink is not None
    small = [spec.shrink(picture) for picture in pictures]
    found = {
        "read_ms": each(lambda file: rgb.read(file, spec.resize_side), files, num_rounds),
        "pillow_resize_ms": each(spec.shrink, pictures, num_rounds),
        "rest_ms": each(spec.transform, small, num_rounds),
    }
    if spec.cut is None or spec.resampling is None or spec.cut.box(pictures[0].size) is None:
        return found
    parts = [
        Columns(picture.size, bytearray(spec.cut.columns(picture) or b"")) for picture in pictures
    ]
    return found | {
        "columns_ms": each(spec.cut.columns, pictures, num_rounds),
        "resample_ms": each(spec.resampling, parts, num_rounds),
    }


def each(work: Callable[[T], object], given: list[T], num_rounds: int) -> float:
    """Milliseconds of some work for one of several things: the median of the rounds."""
    taken = []
    for _ in range(num_rounds + 1):
        started = time.perf_counter()
        for one in given:
            work(one)
        taken.append((time.perf_counter() - started) / len(given))
    return milliseconds(taken[1:])


def milliseconds(seconds: list[float]) -> float:
    """The median, in milliseconds."""
    return round(1000 * statistics.median(seconds), 3)


def saved(file: bytes, size: tuple[int, int], file_format: str, options: dict[str, Any]) -> bytes:
    """The photo in another size and format."""
    out = io.BytesIO()
    picture = Image.open(io.BytesIO(file)).convert("RGB")
    picture.resize(size, Image.Resampling.LANCZOS).save(out, file_format, **options)
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
