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
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import rapid_core
from benchmarks.measure import environment, tables
from benchmarks.measure.candidates import Candidate, scaled_r
from benchmarks.measure.pictures import BUNDLED, PROBE, Batches
from benchmarks.measure.published import PUBLISHED
from benchmarks.measure.timing import median_speed, time_rounds
from service.models import timm_models

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


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
    batches = Batches(
        loaded, arguments.data, batch_size=arguments.batch_size, limit=arguments.limit
    )
    rows, timed = evaluate(candidates, batches, torch.device(arguments.device), arguments.amp)
    add_speed(rows, candidates, timed, arguments)
    add_published(rows, name)
    print(tables.of([asdict(row) for row in rows], list(Row.__annotations__)), file=sys.stderr)
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
    parser.add_argument("--data", type=Path, default=PROBE)
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
