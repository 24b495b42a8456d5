"""How much time each method really saves: images/s beside multiply-adds.

    python -m benchmarks.core --model vit_small_patch16_224 --batch-size 8

Times the dense model, the same under torch.compile, and every method at the papers' r = 8, 11, 14,
17, 20 (scaled to the model's patches and depth, as the service's tiers are). With `--graphs`, on a
GPU, all but what is compiled run as CUDA graphs, as in the service. Weights are random, from a
fixed seed: they do not change the time. With `--unfused`, on a GPU, the methods whose matching has
fused kernels run without them, too. All rows take turns, round by round, and the dense
model has its turn again before every fifth row, so that a change of the machine's speed hits both
sides of a ratio alike; a speed-up is the median of the rounds' ratios to the dense model.
`speed_up_x_macs_ratio` is 1 where all the work that was saved became time, and
`share_of_matrix_peak` where the model is as fast as one large product of matrices on the same
machine in the same dtype. JSON goes to stdout, a table and a progress bar to stderr.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

import rapid_core
from benchmarks.measure import environment, tables
from benchmarks.measure.candidates import Candidate, scaled_r
from benchmarks.measure.timing import (
    Replayed,
    Timing,
    median_speed,
    peak_flop_per_s,
    peak_memory_mib,
    time_rounds,
)
from service.backends.cuda_graphs import CudaRecorder
from service.backends.malloc import keep_freed_memory
from service.models.timm_models import timm

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
COLUMNS = (
    *("name", "r", "images_per_s", "speed_up", "speed_up_over_compiled", "macs_ratio"),
    *("speed_up_x_macs_ratio", "share_of_matrix_peak", "peak_memory_mib"),
)
FUSED = ("rapid", "tome", "tofu")
WAYS = {"prefix_only": "prefix_only", "fused_kernels": "unfused"}


def main() -> None:
    """Print one JSON document."""
    arguments = _parse()
    keep_freed_memory()  # as the service does
    torch.manual_seed(0)
    model = timm.create_model(arguments.model, pretrained=False).eval()
    model.requires_grad_(requires_grad=False).to(arguments.device, DTYPES[arguments.dtype])
    S = model.patch_embed.img_size
    batch = torch.randn(arguments.batch_size, 3, *S).to(arguments.device, DTYPES[arguments.dtype])
    rows = _dense(model, compiled=arguments.compile)
    rows += _reduced(model, arguments)
    if arguments.graphs:
        rows = _as_graphs(rows, batch)
    timings = time_rounds(
        [row.module for row in rows], batch, rounds=arguments.rounds, calls=arguments.calls
    )
    results = summarise(rows, timings, batch)
    matrix_gflop_per_s = peak_flop_per_s(batch, arguments.rounds) / 1e9
    for row, figures in zip(rows, results, strict=True):
        flop_per_s = 2 * row.macs * cast(float, figures["images_per_s"])
        figures["share_of_matrix_peak"] = round(flop_per_s / matrix_gflop_per_s / 1e9, 3)
    print(tables.of(results, COLUMNS), file=sys.stderr)
    result = {
        **{name: getattr(arguments, name) for name in ("model", "device", "dtype", "batch_size")},
        **{name: getattr(arguments, name) for name in ("rounds", "calls", "graphs")},
        "matrix_gflop_per_s": round(matrix_gflop_per_s, 1),
        "device_name": _device_name(batch.device),
        "rows": results,
        "environment": environment.describe(),
    }
    print(json.dumps(result, indent=1))


def _parse() -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_small_patch16_224", help="a timm name")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--calls", type=int, default=20 if cuda else 1, help="forwards per measurement"
    )
    parser.add_argument("--methods", nargs="*", choices=rapid_core.METHODS, metavar="METHOD")
    parser.add_argument("--r", nargs="*", type=int, help="tokens per block, as they are, unscaled")
    parser.add_argument("--graphs", action="store_true", help="CUDA graphs; needs a GPU")
    parser.add_argument("--unfused", action="store_true", help="without fused kernels, too")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument(
        "--compile-methods", nargs="*", default=[], choices=rapid_core.METHODS, metavar="METHOD",
        help="methods to time under torch.compile too (on a CPU, a minute or two for each r)",
    )  # fmt: skip
    arguments = parser.parse_args()
    if arguments.methods is None:
        arguments.methods = list(rapid_core.METHODS)
    return arguments


def _dense(model: Any, *, compiled: bool) -> list[Candidate]:
    macs = rapid_core.macs(model)
    rows = [Candidate("dense", 0, model, macs)]
    if compiled:
        rows.append(Candidate("dense, compiled", 0, _compile(model), macs))
    return rows


def _reduced(model: Any, arguments: argparse.Namespace) -> list[Candidate]:
    """Every method and r; RAPID also with a last block for the prefix tokens alone."""
    rows = []
    for method in arguments.methods:
        ways: list[dict[str, bool]] = [{}]
        if method == "rapid" and model.global_pool == "token":
            ways.append({"prefix_only": True})
        if method in FUSED and arguments.unfused:
            ways.append({"fused_kernels": False})
        for way in ways:
            for r in arguments.r or scaled_r(model):
                module = rapid_core.patch(model, r=r, method=method, **way)
                name = ", ".join([method, *(WAYS[option] for option in way)])
                row = Candidate(name, r, module, rapid_core.macs(module))
                rows.append(row)
                if method in arguments.compile_methods:
                    rows.append(row._replace(name=f"{name}, compiled", module=_compile(module)))
    return rows


def _as_graphs(rows: Sequence[Candidate], batch: Tensor) -> list[Candidate]:
    """The same rows; what is not compiled becomes a CUDA graph."""
    record = CudaRecorder(batch.device)
    return [
        row
        if isinstance(row.module, torch._dynamo.OptimizedModule)
        else row._replace(module=Replayed(row.module, record, batch))
        for row in rows
    ]


def _compile(module: nn.Module) -> nn.Module:
    # All variants of a model run the same lines of code, and each is compiled for itself.
    torch._dynamo.config.recompile_limit = 1000
    compiled: Any = torch.compile(module, fullgraph=True, dynamic=False)
    return cast(nn.Module, compiled)


def summarise(
    rows: Sequence[Candidate], timings: Sequence[Sequence[Timing]], batch: Tensor
) -> list[dict[str, object]]:
    """One dictionary per row; the first row is what the others are compared with."""
    speeds = [median_speed(times, len(batch)) for times in timings]
    compiled = next((n for n, row in enumerate(rows) if row.name == "dense, compiled"), None)
    results = []
    for row, (images_per_s, speed_up) in zip(rows, speeds, strict=True):
        macs_ratio = row.macs / rows[0].macs
        over_compiled = None if compiled is None else round(speed_up / speeds[compiled][1], 3)
        results.append(
            {
                "name": row.name,
                "r": row.r,
                "images_per_s": round(images_per_s, 1),
                "speed_up": round(speed_up, 3),
                "speed_up_over_compiled": over_compiled,
                "macs_ratio": round(macs_ratio, 4),
                "speed_up_x_macs_ratio": round(speed_up * macs_ratio, 3),
                "peak_memory_mib": peak_memory_mib(row.module, batch),
            }
        )
    return results


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    main()
