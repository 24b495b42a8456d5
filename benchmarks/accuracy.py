"""What each method costs in accuracy, on labelled pictures, at every r.

    python -m benchmarks.accuracy --limit 60 --methods rapid tome --r 14 26
    python -m benchmarks.accuracy --model vit_base_patch16_224.augreg2_in21k_ft_in1k \
        --data imagenet/val --batch-size 64 --amp float16 --csv accuracy.csv --png accuracy.png

Without --data: the probe pictures of the bundled model. With --data: a folder with `labels.csv`
(file,index,label), or an ImageNet validation folder with one sub-folder per class, named by its
synset; sorted, their position is the class index. Each row has top-1 and top-5 accuracy, agreement
of the top-1 class with r = 0, mean cosine of the pooled features (what the classifier reads) to
those at r = 0, images/s (measured in turn, in the same run, on one batch), and the papers' numbers
where model, method and r are theirs. JSON goes to stdout, a table and progress bars to stderr.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import rapid_core
from benchmarks import environment
from benchmarks.core import Candidate, scaled_r, table
from benchmarks.tiers import load_probe
from benchmarks.timing import median_speed, time_rounds
from service.images.decode import InputSpec, decode
from service.models import timm_models
from service.models.timm_models import BUNDLED_MODELS, LoadedModel

BUNDLED = "everyday-vit-s14"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
SUFFIXES = {".jpeg", ".jpg", ".png", ".webp"}

PUBLISHED: dict[str, dict[str, dict[int, tuple[float, int]]]] = {
    "vit_base_patch16_224.augreg2_in21k_ft_in1k": {
        "dense": {0: (85.11, 1661)},
        "rapid": {11: (84.61, 2656), 14: (84.17, 3053), 17: (82.83, 3495), 20: (77.54, 3930)},
        "tome": {11: (84.13, 2688), 14: (83.41, 3098), 17: (81.30, 3544), 20: (73.25, 3987)},
        "tofu": {11: (84.25, 2714), 14: (83.72, 3127), 17: (82.02, 3587), 20: (75.26, 4038)},
    },
    "deit_base_patch16_224.fb_in1k": {
        "dense": {0: (81.97, 1938)},
        "rapid": {11: (81.25, 2653), 14: (80.52, 3052), 17: (78.77, 3492), 20: (72.03, 3926)},
        "tome": {11: (80.59, 2693), 14: (79.42, 3104), 17: (76.38, 3553), 20: (66.47, 3998)},
        "tofu": {11: (80.98, 2710), 14: (80.23, 3128), 17: (78.24, 3586), 20: (71.03, 4038)},
    },
}
"""Top-1 in percent and img/s on one RTX 4090 with float16 autocast and batch 64, of ImageNet-1K.

Source: RAPID (arXiv 2606.08156), Table 1; its ToFu is that paper's own re-implementation.
"""


@dataclass
class Row:
    """One method at one r; shares are in 0 ... 1."""

    name: str
    """a method, or "dense" for r = 0."""
    r: int
    tokens: int
    """left after the last block, prefix tokens included."""
    macs_ratio: float
    top1: float
    top5: float
    agreement: float
    """share of the pictures whose best class is that of r = 0."""
    cosine: float
    """mean over the pictures, pooled features against those of r = 0."""
    images_per_s: float = 0.0
    speed_up: float = 1.0
    """median of the rounds' ratios to r = 0."""
    published_top1: float | None = None
    published_images_per_s: int | None = None


class Output(NamedTuple):
    """What a model says of a batch."""

    logits: Tensor
    """(B, K) float32."""
    features: Tensor
    """(B, C) float32, what the classifier reads."""


def main() -> None:
    """Print one JSON document; write a CSV and a plot where asked."""
    arguments = _parse()
    loaded = timm_models.load(arguments.model)
    model = loaded.module.to(arguments.device).requires_grad_(requires_grad=False)
    name = full_name(model)
    candidates = [Candidate("dense", 0, model, rapid_core.macs(model))]
    for method in arguments.methods:
        for r in arguments.r or scaled_r(model):
            module = rapid_core.patch(model, r=r, method=method)
            candidates.append(Candidate(method, r, module, rapid_core.macs(module)))
    batches = Batches(loaded, arguments)
    rows, timed = evaluate(candidates, batches, torch.device(arguments.device), arguments.amp)
    add_speed(rows, candidates, timed, arguments)
    add_published(rows, name)
    print(table([asdict(row) for row in rows], list(Row.__annotations__)), file=sys.stderr)
    if arguments.csv:
        write_csv(rows, arguments.csv)
    if arguments.png:
        plot(rows, arguments.png, title=f"{arguments.model}, {batches.num_pictures} pictures")
    result = {
        "model": arguments.model,
        "weights": name,
        "num_pictures": batches.num_pictures,
        **{name: getattr(arguments, name) for name in ("device", "amp", "batch_size", "rounds")},
        "rows": [asdict(row) for row in rows],
        "environment": environment.describe(),
    }
    print(json.dumps(result, indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=BUNDLED, help="a bundled model, folder or timm name")
    parser.add_argument("--data", type=Path, default=BUNDLED_MODELS / BUNDLED / "probe")
    parser.add_argument("--methods", nargs="+", choices=rapid_core.METHODS, metavar="METHOD")
    parser.add_argument("--r", nargs="+", type=int, help="default: the papers', scaled")
    parser.add_argument("--limit", type=int, help="number of pictures, spread evenly over all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", choices=DTYPES, help="autocast, as in the papers: float16")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="how often each row is timed")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--png", type=Path, help="plot of top-1 against images/s")
    arguments = parser.parse_args()
    arguments.methods = arguments.methods or list(rapid_core.METHODS)
    return arguments


class Batches:
    """Labelled pictures, one batch after the other: (pixels (B, 3, H, W), labels (B,))."""

    def __init__(self, loaded: LoadedModel, arguments: argparse.Namespace) -> None:
        """List the pictures of a folder; a small labelled set is decoded at once.

        Raises:
            SystemExit: the folder does not fit the model.
        """
        self._batch_size: int = arguments.batch_size
        self._spec = InputSpec(loaded.transform, loaded.resize_side)
        self._pixels: Tensor | None = None
        if (arguments.data / "labels.csv").exists():
            self._pixels, self._labels = load_probe(loaded, arguments.data)
        else:
            self._files, self._labels = class_folders(arguments.data, len(loaded.labels))
        chosen = spread(len(self._labels), arguments.limit)
        if self._pixels is None:
            self._files = [self._files[number] for number in chosen]
        else:
            self._pixels = self._pixels[chosen]
        self._labels = self._labels[chosen]
        self.num_pictures = len(chosen)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode in threads; no more than one batch is held."""
        numbers = torch.arange(self.num_pictures).split(self._batch_size)
        with ThreadPoolExecutor() as pool:
            for part in numbers:
                if self._pixels is None:
                    pixels = torch.stack(list(pool.map(self._decode, part.tolist())))
                else:
                    pixels = self._pixels[part]
                yield pixels, self._labels[part]

    def _decode(self, number: int) -> Tensor:
        return decode(self._files[number].read_bytes(), self._spec)


def class_folders(folder: Path, num_classes: int) -> tuple[list[Path], Tensor]:
    """Files and class indices (M,) of a folder with one sub-folder per class, sorted by name.

    Raises:
        SystemExit: there are more or fewer of them than the model has classes.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if len(classes) != num_classes:
        raise SystemExit(
            f"{folder} has {len(classes)} class folders and no labels.csv, the model has "
            f"{num_classes} classes"
        )
    files, labels = [], []
    for index, name in enumerate(classes):
        found = sorted(path for path in name.iterdir() if path.suffix.lower() in SUFFIXES)
        files += found
        labels += [index] * len(found)
    return files, torch.tensor(labels)


def spread(num_all: int, limit: int | None) -> list[int]:
    """At most `limit` of the numbers 0 ... num_all - 1, spread evenly over the sorted classes."""
    num_chosen = num_all if limit is None else min(limit, num_all)
    return [number * num_all // num_chosen for number in range(num_chosen)]


@torch.inference_mode()
def evaluate(
    candidates: Sequence[Candidate], batches: Batches, device: torch.device, amp: str | None
) -> tuple[list[Row], Tensor]:
    """Run every candidate over all pictures; the first is what the others are compared with.

    Returns:
        A row for each candidate, and the first batch, on the device.
    """
    sums = torch.zeros(len(candidates), 4, dtype=torch.float64)
    num_runs = batches.num_pictures * len(candidates)
    first: Tensor | None = None
    with tqdm(total=num_runs, desc="pictures", unit="run") as progress:
        for cpu_pixels, labels in batches:
            pixels = cpu_pixels.to(device)
            first = pixels if first is None else first
            truth: Output | None = None
            for number, candidate in enumerate(candidates):
                output = run(candidate.module, pixels, amp)
                truth = truth or output
                sums[number] += score(output, truth, labels)
                progress.update(len(labels))
    assert first is not None
    means = (sums / batches.num_pictures).tolist()
    rows = zip(candidates, means, strict=True)
    return [_row(candidate, shares, candidates[0].macs) for candidate, shares in rows], first


def _row(candidate: Candidate, shares: Sequence[float], dense_macs: int) -> Row:
    top1, top5, agreement, cosine = (round(share, 5) for share in shares)
    return Row(
        candidate.name,
        candidate.r,
        tokens=num_output_tokens(candidate.module),
        macs_ratio=round(candidate.macs / dense_macs, 4),
        top1=top1,
        top5=top5,
        agreement=agreement,
        cosine=cosine,
    )


def num_output_tokens(module: Any) -> int:
    """Tokens after the last block of a timm model, patched or not."""
    num_tokens: int = module.patch_embed.num_patches + module.num_prefix_tokens
    if not hasattr(module.blocks, "reduction"):
        return num_tokens
    return rapid_core.token_counts(
        num_tokens=num_tokens,
        num_prefix_tokens=module.num_prefix_tokens,
        num_blocks=len(module.blocks),
        r=module.blocks.reduction.schedule,
    )[-1]


def run(module: Any, pixels: Tensor, amp: str | None) -> Output:
    """One forward; the features are what reaches the classifier (`forward_head(pre_logits=True)`).

    They are caught on the way: pooling weighted by size happens only inside a whole forward.
    """
    caught: list[Tensor] = []
    handle = module.head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        with autocast(pixels.device, amp):
            logits = module(pixels)
    finally:
        handle.remove()
    return Output(logits.float().cpu(), caught[0].float().cpu())


def score(output: Output, truth: Output, labels: Tensor) -> Tensor:
    """Sums over a batch: (4,) = top-1 right, top-5 right, agreeing with r = 0, cosine to r = 0."""
    top5 = output.logits.topk(5, dim=-1).indices
    right = top5 == labels[:, None]
    agreeing = top5[:, 0] == truth.logits.argmax(dim=-1)
    cosine = F.cosine_similarity(output.features, truth.features, dim=-1)
    return torch.stack([right[:, 0].sum(), right.sum(), agreeing.sum(), cosine.double().sum()])


def autocast(device: torch.device, amp: str | None) -> AbstractContextManager[object]:
    """Mixed precision, or nothing."""
    return nullcontext() if amp is None else torch.autocast(device.type, DTYPES[amp])


def add_speed(
    rows: Sequence[Row],
    candidates: Sequence[Candidate],
    batch: Tensor,
    arguments: argparse.Namespace,
) -> None:
    """Time all candidates in turn on one batch."""
    modules = [candidate.module for candidate in candidates]
    calls = 10 if batch.device.type == "cuda" else 1
    with autocast(batch.device, arguments.amp):
        timings = time_rounds(modules, batch, rounds=arguments.rounds, calls=calls)
    for row, times in zip(rows, timings, strict=True):
        images_per_s, speed_up = median_speed(times, len(batch))
        row.images_per_s, row.speed_up = round(images_per_s, 1), round(speed_up, 3)


def full_name(module: Any) -> str:
    """Architecture and weights of a model, as timm names them."""
    config = module.pretrained_cfg
    return ".".join(config[part] for part in ("architecture", "tag") if config.get(part))


def add_published(rows: Sequence[Row], name: str) -> None:
    """Set the papers' numbers beside the measured ones where there are some."""
    for row in rows:
        found = PUBLISHED.get(name, {}).get(row.name, {}).get(row.r)
        if found:
            row.published_top1, row.published_images_per_s = found[0] / 100, found[1]


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line per row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(Row.__annotations__))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Top-1 against images/s, one line per method, each from the dense model on.

    Images/s are those of the dense model times the speed-up, which a change of the machine's speed
    does not touch.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: install the extra `bench` (matplotlib) first", file=sys.stderr)
        return
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    dense = rows[0]
    for method in dict.fromkeys(row.name for row in rows[1:]):
        points = [dense, *(row for row in rows if row.name == method)]
        axes.plot(
            [row.speed_up * dense.images_per_s for row in points],
            [100 * row.top1 for row in points],
            marker="o",
            label=method,
        )
    axes.plot(dense.images_per_s, 100 * dense.top1, "k*", markersize=14, label="dense")
    axes.set(xlabel="images/s", ylabel="top-1 (%)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
