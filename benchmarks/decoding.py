"""What decoding a picture costs, with Pillow's and with PyTorch's resizing, and how they differ.

    python -m benchmarks.decoding --out benchmarks/results/decoding-cpu.json

One thread, the example photos at several sizes as JPEGs of quality 90; both ways take turns, quoted
are the median of the ratios, the share of the pixel values that differ, and by how much of 255.
`pool_ms` is Pillow's way by a process of the service's pool, with the way there and back.
"""

import argparse
import asyncio
import io
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from benchmarks.measure import environment, tables
from service.images.decode import InputSpec, decode
from service.images.pool import DecodePool
from service.load.request import EXAMPLES, load_images
from service.models import timm_models

MODEL = "everyday-vit-s14"
COLUMNS = (
    "size",
    "pillow_ms",
    "torch_ms",
    "pool_ms",
    "ratio",
    "share_differs",
    "largest_difference",
)
SIZES = ((320, 240), (640, 480), (1280, 960), (3840, 2880))


def main() -> int:
    """Print a table, and write JSON where it is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = timm_models.load(MODEL)
    transforms = {
        "pillow": loaded.transform,
        "torch": timm_models.resizing_quickly(loaded.transform),
    }
    specs = {
        name: InputSpec(transform, loaded.resize_side, timm_models.shrink_of(transform))
        for name, transform in transforms.items()
    }
    # A level of 255 after timm's normalisation, which divides each channel by its deviation.
    levels = 255 * torch.tensor(timm_models.resolve_model_data_config(loaded.module)["std"])
    rows = asyncio.run(measured(specs, levels[:, None, None], arguments.rounds))
    print(tables.of(rows, COLUMNS))
    environment.write(arguments.out, {"rounds": arguments.rounds, "rows": rows})
    return 0


async def measured(
    specs: dict[str, InputSpec], levels: torch.Tensor, num_rounds: int
) -> list[dict[str, Any]]:
    """A row for each size."""
    pool = DecodePool(1)
    rows = [await row(size, specs, levels, num_rounds, pool) for size in tqdm(SIZES, disable=None)]
    pool.close()
    return rows


async def row(
    size: tuple[int, int],
    specs: dict[str, InputSpec],
    levels: torch.Tensor,
    num_rounds: int,
    pool: DecodePool,
) -> dict[str, Any]:
    """Time and differences of the example photos in one size."""
    files = [resized(image.content, size) for image in load_images([EXAMPLES])]
    seconds: dict[str, list[float]] = {name: [] for name in (*specs, "pool")}
    for number in range(num_rounds + 1):
        for name in seconds:
            started = time.perf_counter()
            for file in files:
                if name == "pool":
                    await pool.decode(file, specs["pillow"], MODEL)
                else:
                    decode(file, specs[name])
            if number > 0:  # the first does not count
                seconds[name].append((time.perf_counter() - started) / len(files))
    differs = torch.stack(
        [
            ((decode(file, specs["torch"]) - decode(file, specs["pillow"])) * levels).abs().round()
            for file in files
        ]
    )
    return {
        "size": f"{size[0]} x {size[1]}",
        **{
            f"{name}_ms": round(1000 * statistics.median(each), 3) for name, each in seconds.items()
        },
        "ratio": round(
            statistics.median(
                slow / fast for slow, fast in zip(seconds["pillow"], seconds["torch"], strict=True)
            ),
            3,
        ),
        "share_differs": round((differs > 0).float().mean().item(), 6),
        "largest_difference": int(differs.max()),
    }


def resized(file: bytes, size: tuple[int, int]) -> bytes:
    """The photo in another size, as a JPEG."""
    out = io.BytesIO()
    Image.open(io.BytesIO(file)).convert("RGB").resize(size, Image.Resampling.LANCZOS).save(
        out, "JPEG", quality=90
    )
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
