"""How often 16 bits choose the same tokens, and the same class, as float32.

    python -m benchmarks.precision --dtype bfloat16 --limit 32

A patch counts as equal if it has the same fate after the last block: pruned in both, or alive in
both. Reported, not asserted: scores that are nearly tied may go either way. JSON goes to stdout.
"""

import argparse
import copy
import json
from pathlib import Path

import torch

import rapid_core
from benchmarks.measure import environment
from benchmarks.measure.pictures import BUNDLED, PROBE, load_probe
from service.models import timm_models

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@torch.inference_mode()
def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=BUNDLED)
    parser.add_argument("--probe", type=Path, default=PROBE)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--methods", nargs="+", choices=rapid_core.METHODS, default=["rapid"])
    parser.add_argument("--r", nargs="+", type=int, default=[14, 22])
    parser.add_argument("--limit", type=int, default=32, help="number of pictures")
    arguments = parser.parse_args()

    loaded = timm_models.load(arguments.model)
    images = load_probe(loaded, arguments.probe)[0][: arguments.limit].to(arguments.device)
    wide = loaded.module.to(arguments.device)
    narrow = copy.deepcopy(wide).to(DTYPES[arguments.dtype])
    rows = []
    for method in arguments.methods:
        for r in arguments.r:
            expected = rapid_core.trace(rapid_core.patch(wide, r=r, method=method), images)
            found = rapid_core.trace(
                rapid_core.patch(narrow, r=r, method=method), images.to(DTYPES[arguments.dtype])
            )
            alive = [trace.assignment[-1] >= 0 for trace in (expected, found)]
            classes = [trace.logits.argmax(dim=-1) for trace in (expected, found)]
            rows.append(
                {
                    "method": method,
                    "r": r,
                    "same_fate": round((alive[0] == alive[1]).float().mean().item(), 4),
                    "same_class": round((classes[0] == classes[1]).float().mean().item(), 4),
                }
            )
    result = {
        "model": arguments.model,
        "device": arguments.device,
        "dtype": arguments.dtype,
        "num_pictures": len(images),
        "rows": rows,
        "environment": environment.describe(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
