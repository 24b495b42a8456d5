"""How often a smaller precision chooses the same tokens, and the same class, as float32.

    python -m benchmarks.precision --dtype bfloat16 --limit 32
    python -m benchmarks.precision --packed int8 --r 0 11 20 --limit 334

With `--packed`, the linear layers are packed as the service packs them on the CPU.

A patch counts as equal if it has the same fate after the last block: pruned in both, or alive in
both. Reported, not asserted: scores that are nearly tied may go either way. JSON goes to stdout.
"""

import argparse
import copy
import json
from pathlib import Path
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

import rapid_core
from benchmarks.measure import environment
from benchmarks.measure.pictures import BUNDLED, PROBE, load_probe, share_equal, spread
from service.backends import onednn
from service.models import timm_models

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
BATCH_SIZE = 16


class Outcome(NamedTuple):
    """What a model made of M images."""

    alive: Tensor
    """(M, n), whether each patch is alive after the last block."""
    classes: Tensor
    """(M,), the most probable class."""


@torch.inference_mode()
def alive_and_class(module: nn.Module, images: Tensor) -> Outcome:
    """Run images (M, 3, H, W), some at a time: a trace keeps much of each."""
    traces = [rapid_core.trace(module, some) for some in images.split(BATCH_SIZE)]
    alive = torch.cat([trace.assignment[-1] >= 0 for trace in traces])
    return Outcome(alive, torch.cat([trace.logits.argmax(dim=-1) for trace in traces]))


def agreement(expected: Outcome, found: Outcome) -> dict[str, float]:
    """Shares of patches with the same fate and of images with the same class, 0 ... 1."""
    return {
        "same_fate": share_equal(found.alive, expected.alive),
        "same_class": share_equal(found.classes, expected.classes),
    }


@torch.inference_mode()
def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=BUNDLED)
    parser.add_argument("--probe", type=Path, default=PROBE)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--packed", choices=get_args(onednn.Precision))
    parser.add_argument("--methods", nargs="+", choices=rapid_core.METHODS, default=["rapid"])
    parser.add_argument("--r", nargs="+", type=int, default=[14, 22])
    parser.add_argument("--limit", type=int, default=32, help="number of pictures")
    arguments = parser.parse_args()

    loaded = timm_models.load(arguments.model)
    images, labels = load_probe(loaded, arguments.probe)
    chosen = spread(len(labels), arguments.limit)
    images, labels = images[chosen].to(arguments.device), labels[chosen].to(arguments.device)
    wide = loaded.module.to(arguments.device)
    narrow = copy.deepcopy(wide)
    dtype = torch.float32 if arguments.packed else DTYPES[arguments.dtype]
    if arguments.packed:
        onednn.pack(narrow, arguments.packed)
    else:
        narrow = narrow.to(dtype)
    rows = []
    for method in arguments.methods:
        for r in arguments.r:
            modules = [rapid_core.patch(model, r=r, method=method) for model in (wide, narrow)]
            expected = alive_and_class(modules[0], images)
            found = alive_and_class(modules[1], images.to(dtype))
            row = {"method": method, "r": r, **agreement(expected, found)}
            row["top1_float32"] = share_equal(expected.classes, labels)
            rows.append({**row, "top1": share_equal(found.classes, labels)})
    result = {
        "model": arguments.model,
        "device": arguments.device,
        "dtype": arguments.packed or arguments.dtype,
        "packed": arguments.packed is not None,
        "num_pictures": len(images),
        "rows": rows,
        "environment": environment.describe(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
