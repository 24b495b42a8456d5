"""What colour profiles do to the labels, converted and ignored, and what converting costs.

    python -m benchmarks.color --out benchmarks/results/color-cpu.json

The bundled probe pictures are saved in other spaces, as cameras and phones do. Quoted are the
unreduced model's accuracy and the share of the pictures that keep the label of the sRGB file, with
RAPID_COLOR=srgb and with RAPID_COLOR=ignore; and what decoding a photo of 12 megapixels takes.
"""

import argparse
import io
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageCms
from tqdm import tqdm

from benchmarks.measure import environment, tables
from benchmarks.measure.pictures import PROBE
from service.accuracy import probe_set
from service.images import rgb
from service.images.colors.profiles import D65, DISPLAY_P3, Primaries, matrix_profile
from service.images.decode import InputSpec, decode
from service.images.options import Color
from service.load.request import EXAMPLES, load_images
from service.models import timm_models
from service.models.timm_models import LoadedModel

MODEL = "everyday-vit-s14"
SPACES = {
    "Display P3": matrix_profile(DISPLAY_P3),
    "Adobe RGB": matrix_profile(
        Primaries(D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), gamma=563 / 256
    ),
    "ProPhoto": matrix_profile(
        Primaries((0.3457, 0.3585), (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), gamma=1.8
    ),
}
WAYS: tuple[Color, ...] = ("srgb", "ignore")
COLUMNS = ("space", "color", "top1", "as_srgb_file")
COST_COLUMNS = ("file", "srgb_ms", "ignore_ms")
LARGE = (4000, 3000)


def main() -> int:
    """Print two tables, and write JSON where it is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=PROBE, help="folder with labels.csv")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    loaded = timm_models.load(MODEL)
    rows = list(accuracy(loaded, arguments.data))
    costs = list(cost(loaded.resize_side, arguments.rounds))
    print(tables.of(rows, COLUMNS))
    print(tables.of(costs, COST_COLUMNS))
    environment.write(arguments.out, {"accuracy": rows, "cost": costs})
    return 0


def accuracy(loaded: LoadedModel, folder: Path) -> Iterator[dict[str, Any]]:
    """Accuracy, and agreement with the sRGB files, of each space and way."""
    listed = probe_set.read(folder, loaded.labels, max_pictures=sys.maxsize).pictures
    pictures = [Image.open(picture.path).convert("RGB") for picture in listed]
    labels = torch.tensor([picture.label for picture in listed])
    plain = predicted(loaded, [saved(picture) for picture in pictures], "srgb")
    yield {"space": "sRGB", "color": "srgb", **shares(plain, labels, plain)}
    for space, profile in SPACES.items():
        files = [saved(picture, profile) for picture in pictures]
        for way in WAYS:
            found = predicted(loaded, files, way)
            yield {"space": space, "color": way, **shares(found, labels, plain)}


def shares(found: torch.Tensor, labels: torch.Tensor, plain: torch.Tensor) -> dict[str, float]:
    """Percent of the pictures whose label is right, and is that of the sRGB file."""
    return {
        "top1": round(100 * (found == labels).float().mean().item(), 1),
        "as_srgb_file": round(100 * (found == plain).float().mean().item(), 1),
    }


@torch.inference_mode()
def predicted(loaded: LoadedModel, files: list[bytes], color: Color) -> torch.Tensor:
    """The most probable class of each file: (M,)."""
    spec = InputSpec(loaded.transform, loaded.resize_side, color)
    batches = [files[at : at + 16] for at in range(0, len(files), 16)]
    found = [
        loaded.module(torch.stack([decode(file, spec) for file in batch])).argmax(dim=-1)
        for batch in tqdm(batches, desc=color, unit="batch", disable=None)
    ]
    return torch.cat(found)


def saved(picture: Image.Image, profile: bytes | None = None, file_format: str = "JPEG") -> bytes:
    """The picture as a file, with its colours in the space of a profile."""
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if file_format == "JPEG" else {}
    if profile is not None:
        target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        picture = ImageCms.ImageCmsTransform(srgb, target, "RGB", "RGB").apply(picture)
        options["icc_profile"] = profile
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def cost(resize_side: int, num_rounds: int) -> Iterator[dict[str, Any]]:
    """Milliseconds for a P3 photo of 12 megapixels, both ways in turns."""
    first = next(iter(load_images([EXAMPLES])))
    photo = Image.open(io.BytesIO(first.content)).convert("RGB").resize(LARGE)
    for file_format in ("JPEG", "PNG"):
        file = saved(photo, SPACES["Display P3"], file_format)
        seconds: dict[Color, list[float]] = {way: [] for way in WAYS}
        for _ in range(num_rounds):
            for way in WAYS:
                started = time.perf_counter()
                rgb.read(file, resize_side, color=way)
                seconds[way].append(time.perf_counter() - started)
        times = {f"{way}_ms": round(1000 * statistics.median(seconds[way]), 1) for way in WAYS}
        yield {"file": f"{file_format}, 12 megapixels, P3", **times}


if __name__ == "__main__":
    sys.exit(main())
