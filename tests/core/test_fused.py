"""The fused kernels against PyTorch's steps, which define them.

Without a GPU, Triton's interpreter runs the kernels. It must be chosen before Triton is imported,
so it gets a process of its own, with the functions here that are called ``interpreted_...``:

    TRITON_INTERPRET=1 python -m pytest tests/core/test_fused.py -o python_functions=interpreted
"""

import copy
import logging
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from torch import Tensor, nn

import rapid_core
from rapid_core.attention import AttentionPass
from rapid_core.contract import Evidence, TokenLayout
from rapid_core.matching import fused, scoring, selection
from rapid_core.matching.bipartite import FUSED, PYTORCH, matching_for, merge_similar
from rapid_core.methods.rapid import prune_redundant
from rapid_core.plans import Plan
from rapid_core.tokens import Tokens

from .cuda_graph import recorded
from .tiny import ARCHITECTURES, random_images, tiny_vit

triton = pytest.importorskip("triton")

HERE = Path(__file__)
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LAYOUT = TokenLayout(num_blocks=1, num_prefix_tokens=1, has_class_token=True, grid_size=(4, 4))
METHODS: dict[str, dict[str, Any]] = {
    "rapid": {"r": 3},
    "rapid_clamped": {"r": [2, 3, 99, 1], "clamp_importance": True},
    "rapid_prune": {"r": 3, "num_prune_blocks": 4, "similarity_threshold": 0.1},
    "rapid_on_tokens": {"r": 3, "match_on": "token"},
    "tome": {"r": 3, "method": "tome"},
    "tome_on_tokens": {"r": 3, "method": "tome", "match_on": "token"},
    "tofu": {"r": 3, "method": "tofu"},
}
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def random_keys(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype = torch.float32,
    *,
    layout: str = "qkv",
    seed: int = 0,
) -> Tensor:
    """Keys (B, H, N, D) with something in common, laid out in memory in one of several ways."""
    B, H, N, D = shape
    generator = torch.Generator().manual_seed(seed)
    common, own = (torch.randn(B, H, n, D, generator=generator) for n in (1, N))
    keys = (common + own).to(dtype)
    if layout == "qkv":
        qkv = torch.empty(B, N, 3, H, D, dtype=dtype)
        qkv[:, :, 1] = keys.transpose(1, 2)
        return qkv.permute(2, 0, 3, 1, 4)[1]
    if layout == "columns":
        return keys.mT.contiguous().mT
    return keys[:1].expand(shape) if layout == "expanded" else keys


def evidence(keys: Tensor) -> Evidence:
    nothing = keys[:, 0]
    return Evidence(Tokens(nothing), AttentionPass(nothing, keys, keys, None, 1.0))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Keys, and the number of prefix tokens."""
    P = draw(st.sampled_from([0, 1, 2, 5]))
    num_patches = draw(st.one_of(st.integers(2, 40), st.integers(62, 67), st.integers(125, 135)))
    keys = random_keys(
        (
            draw(st.integers(1, 3)),
            draw(st.integers(1, 12)),
            P + num_patches,
            draw(st.sampled_from([2, 16, 32, 64, 80])),
        ),
        draw(st.sampled_from(DTYPES)),
        layout=draw(st.sampled_from(["qkv", "plain", "columns", "expanded"])),
        seed=draw(st.integers(0, 99)),
    )
    return keys, P


@st.composite
def scores(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, dict[str, int]]:
    """Score, tie-break, destination with many ties, and the counts of a plan."""
    P = draw(st.sampled_from([0, 1, 2, 5]))
    num_patches = draw(st.integers(2, 20) | st.integers(255, 258) | st.just(700))
    S = num_patches // 2
    levels = [-1.0, -0.0, 0.0, 0.5, float("inf"), -float("inf"), float("nan")]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    level = torch.tensor(levels)[: draw(st.integers(1, len(levels)))]
    pick = torch.randint(len(level), (2, 2, S), generator=generator)
    destination = torch.randint(num_patches - S, (2, S), generator=generator)
    counts = {
        "num_removed": draw(st.integers(1, S)),
        "num_tokens": P + num_patches,
        "num_prefix_tokens": P,
    }
    return level[pick[0]], level[pick[1]], destination, counts


# What is checked, on any device


def assert_same_scores(
    keys: Tensor, num_prefix_tokens: int, device: torch.device, threshold: float
) -> None:
    P = num_prefix_tokens
    keys = keys.to(device)
    for ours, theirs in zip(
        FUSED.redundancy(keys, P, threshold), PYTORCH.redundancy(keys, P, threshold), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)
    importance = torch.linspace(0.1, 0.9, keys.shape[2] * 2, device=keys.device)[::2]
    importance = importance.expand(len(keys), -1) * torch.arange(1, len(keys) + 1).to(keys)[:, None]
    for arguments in ((None, 0.0), (importance.float(), 2.5)):
        score, destination = FUSED.best_match(keys, P, *arguments)
        expected, best = PYTORCH.best_match(keys, P, *arguments)
        torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
        assert destination.dtype == best.dtype
        assert_as_similar(keys, P, destination, best)


def assert_as_similar(
    keys: Tensor, num_prefix_tokens: int, destination: Tensor, best: Tensor
) -> None:
    """The same destinations, or ones that differ from them by rounding alone."""
    similarity = scoring.similarity(keys, num_prefix_tokens)
    ours, theirs = (similarity.gather(-1, index[..., None]) for index in (destination, best))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, equal_nan=True)


def assert_same_plans(
    score: Tensor, tie_break: Tensor, destination: Tensor, counts: dict[str, Any]
) -> None:
    pruned = fused.plan_prune(score, tie_break, **counts)
    assert_equal(pruned, selection.plan_prune(score, tie_break, **counts))
    merged = fused.plan_merge(score, destination, **counts)
    assert_equal(merged, selection.plan_merge(score, destination, **counts))


def assert_equal(ours: Plan, theirs: Plan) -> None:
    assert type(ours) is type(theirs)
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
        else:
            assert a == b


def assert_same_choices(model: nn.Module, images: Tensor, **request: Any) -> None:
    ours, theirs = (
        rapid_core.trace(rapid_core.patch(model, fused_kernels=on, **request), images)
        for on in (True, False)
    )
    torch.testing.assert_close(ours.assignment, theirs.assignment, rtol=0, atol=0)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-5, atol=1e-5)


def whole_number_keys(seed: int, num_tokens: int, num_kinds: int) -> Tensor:
    """Keys of few directions at right angles, so that no similarity is rounded and many tie."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(num_kinds, (2, 1, num_tokens), generator=generator)
    directions = torch.cat([torch.eye(4), -torch.eye(4)])[:num_kinds]
    lengths = 2.0 ** torch.randint(-3, 4, kind.shape, generator=generator)
    return (directions[kind] * lengths[..., None]).expand(-1, 3, -1, -1)


def assert_ties_broken_alike(data: st.DataObject, device: torch.device) -> None:
    """From keys to plans: equal tokens, equal similarities, equal scores."""
    P = data.draw(st.sampled_from([0, 1, 2, 5]))
    num_patches = data.draw(st.one_of(st.integers(2, 14), st.integers(126, 134)))
    kinds = data.draw(st.integers(1, 8))
    keys = whole_number_keys(data.draw(st.integers(0, 999)), P + num_patches, kinds).to(device)
    threshold = data.draw(st.sampled_from([-0.5, 0.0, 0.5, 1.0]))
    R = data.draw(st.integers(1, num_patches // 2))
    on = LAYOUT._replace(num_prefix_tokens=P)
    off = on._replace(fused_kernels=False)
    prune = partial(prune_redundant, evidence(keys), R, threshold=threshold)
    assert_equal(prune(layout=on), prune(layout=off))
    merge = partial(merge_similar, evidence(keys), R)
    assert_equal(merge(layout=on), merge(layout=off))


# In Triton's interpreter


@limits(max_examples=40)
@given(problems(), st.sampled_from([-0.3, 0.0, 0.3, 0.7, 1.0]))
def interpreted_scores_are_pytorchs(problem: tuple[Tensor, int], threshold: float) -> None:
    keys, P = problem
    before = keys.clone()
    assert_same_scores(keys, P, CPU, threshold)
    assert torch.equal(keys, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["qkv", "plain", "columns", "expanded"])
def interpreted_keys_may_lie_anyhow(layout: str, dtype: torch.dtype) -> None:
    assert_same_scores(random_keys((3, 2, 41, 20), dtype, layout=layout), 2, CPU, 0.3)


@pytest.mark.parametrize("num_tokens", [197, 577, 1025])
def interpreted_scores_of_whole_models(num_tokens: int) -> None:
    assert_same_scores(random_keys((1, 3, num_tokens, 64), torch.bfloat16), 1, CPU, 0.3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [192, 384, 1024])
def interpreted_scores_of_whole_tokens(width: int, dtype: torch.dtype) -> None:
    """Tokens are matched as keys of one head; scale and offset are a residual stream's."""
    tokens = 20 * random_keys((2, 1, 145, width), dtype) + 3
    assert_same_scores(tokens, 1, CPU, 0.7)


@limits(max_examples=60)
@given(scores())
def interpreted_plans_are_pytorchs(
    problem: tuple[Tensor, Tensor, Tensor, dict[str, int]],
) -> None:
    assert_same_plans(*problem)


@pytest.mark.parametrize("num_patches", [255, 256, 257, 258, 511, 513])
def interpreted_plans_at_the_edge_of_a_block_of_threads(num_patches: int) -> None:
    num_sources = num_patches // 2
    score = torch.rand(3, num_sources, generator=torch.Generator().manual_seed(0))
    counts = {"num_removed": 7, "num_tokens": 2 + num_patches, "num_prefix_tokens": 2}
    destination = torch.arange(num_sources).flip(0).expand(3, -1).contiguous()
    assert_same_plans(score, score, destination, counts)


@limits(max_examples=60)
@given(st.data())
def interpreted_ties_are_broken_as_in_pytorch(data: st.DataObject) -> None:
    assert_ties_broken_alike(data, CPU)


@pytest.mark.parametrize("num_heads", [1, 3])
@pytest.mark.parametrize("size", [0.0, 1e-14, 3e-13, 1e-12, 1e-9, 1e18])
def interpreted_tiny_and_huge_keys_are_scaled_alike(size: float, num_heads: int) -> None:
    assert_same_scores(size * random_keys((2, num_heads, 14, 32)), 1, CPU, 0.0)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, for inf / inf
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("token", [0, 1, 2, 3, 70])
def interpreted_broken_keys_break_the_same_scores(token: int, value: float) -> None:
    keys = random_keys((2, 2, 150, 8))
    keys[1, 0, token, 3] = value
    assert_same_scores(keys, 1, CPU, 0.3)
    score, tie_break = FUSED.redundancy(keys, 1, 0.3)
    _, destination = FUSED.best_match(keys, 1, None, 0.0)
    assert torch.equal(destination, PYTORCH.best_match(keys, 1, None, 0.0)[1])
    counts = {"num_removed": 20, "num_tokens": 150, "num_prefix_tokens": 1}
    assert_same_plans(score, tie_break, destination, counts)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "architecture", ["plain", "even_grid", "qk_norm", "dinov2", "distilled", "no_class_token"]
)
def interpreted_models_choose_alike(architecture: str, method: str) -> None:
    model = copy.deepcopy(tiny_vit(**ARCHITECTURES[architecture])).float()
    assert_same_choices(model, random_images(model, 3).float(), **METHODS[method])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def interpreted_keys_of_sixteen_bits_are_matched(dtype: torch.dtype) -> None:
    """By automatic mixed precision, and in a model of 16 bits, while no gradients are kept."""
    model = copy.deepcopy(tiny_vit()).float()
    images = random_images(model).float()
    with torch.inference_mode(), torch.autocast("cpu", dtype):
        assert_same_choices(model, images, r=3)
    with torch.inference_mode():
        assert_same_choices(model.to(dtype), images.to(dtype), r=3)


def interpreted_gradients_pass_by() -> None:
    gradients = []
    for on in (True, False):
        model = copy.deepcopy(tiny_vit()).float().requires_grad_()
        rapid_core.patch(model, r=3, fused_kernels=on)(
            random_images(model).float()
        ).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def interpreted_compiled_models_are_pytorchs() -> None:
    model = copy.deepcopy(tiny_vit()).float()
    images = random_images(model).float()
    compiled = torch.compile(rapid_core.patch(model, r=3), fullgraph=True, backend="eager")
    expected = rapid_core.patch(model, r=3, fused_kernels=False)(images)
    torch.testing.assert_close(compiled(images), expected)


def interpreted_kernels_are_used_where_they_can_be() -> None:
    keys = random_keys((1, 1, 17, 16))
    assert fused.is_available(CPU)
    assert fused._try(CPU)
    assert matching_for(keys, LAYOUT) is FUSED
    assert matching_for(keys, LAYOUT._replace(fused_kernels=False)) is PYTORCH
    for other in (
        keys.double(),
        torch.empty(1, 1, fused.MAX_TOKENS + 1, 16),
        torch.empty(1, 1, 17, fused.MAX_HEAD_DIM + 1),
        keys.to("meta"),
    ):
        assert matching_for(other, LAYOUT) is PYTORCH


def interpreted_largest_number_of_tokens() -> None:
    assert_same_scores(random_keys((1, 1, fused.MAX_TOKENS, 16)), 0, CPU, 0.5)
    num_sources = fused.MAX_TOKENS // 2
    score = (torch.arange(num_sources)[None] * 37 % 101).float()
    counts = {"num_removed": 99, "num_tokens": fused.MAX_TOKENS, "num_prefix_tokens": 0}
    assert_same_plans(score, score, torch.zeros_like(score, dtype=torch.int64), counts)


# In this process


@pytest.mark.parametrize(
    ("path", "functions"),
    [
        pytest.param(HERE, "interpreted", marks=pytest.mark.slow),
        (HERE.with_name("test_methods.py"), "test"),
    ],
)
def test_in_tritons_interpreter(path: Path, functions: str) -> None:
    """Also the tests whose keys are made by hand, which go through the planners."""
    options = ["-q", "-p", "no:cacheprovider", "-o", f"python_functions={functions}"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(path)],
        cwd=HERE.parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped" not in run.stdout


class FakeGpu:
    """What Triton asks a driver for when it compiles."""

    def __init__(self, capability: int) -> None:
        """Be a GPU of some compute capability: 90 for 9.0."""
        self.target = triton.backends.compiler.GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> object:
        return self.target

    def get_current_device(self) -> str:
        return str(self.target)

    def get_current_stream(self, _device: object) -> int:
        return 0


@pytest.fixture
def compile_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Kernels are compiled where they would be started; returns the list that they come into."""
    compiled = []
    run = triton.JITFunction.run

    def record(kernel: Any, *arguments: Any, **options: Any) -> None:
        compiled.append(run(kernel, *arguments, **{**options, "warmup": True}))

    monkeypatch.setattr(triton.JITFunction, "run", record)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return compiled


def resources(kernel: Any, folder: Path) -> dict[str, int]:
    """What a compiled kernel takes of a GPU: registers (REG), spilled bytes (STACK), and so on."""
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    report = subprocess.run(
        [tool, "-res-usage", cubin], capture_output=True, text=True, check=True
    ).stdout
    return {name: int(number) for name, number in re.findall(r"([A-Z]+):(\d+)", report)}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("capability", [80, 90])
def test_compiles_for_gpus_into_registers(
    capability: int,
    dtype: torch.dtype,
    compile_only: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(triton.runtime.driver, "_active", FakeGpu(capability))
    for B, H, N, D, P in (
        (4, 6, 197, 64, 1),
        (2, 16, 577, 80, 5),
        (1, 12, 2048, 64, 0),
        (4, 1, 197, 384, 1),
        (2, 1, 577, 1024, 5),
        (1, 1, 2048, 16, 1500),
    ):
        keys = random_keys((B, H, N, D), dtype)
        counts: dict[str, Any] = {"num_removed": 9, "num_tokens": N, "num_prefix_tokens": P}
        fused.plan_prune(*fused.redundancy(keys, P, 0.7), **counts)
        fused.plan_merge(*fused.best_match(keys, P, torch.rand(B, N), 50.0), **counts)
        fused.plan_merge(*fused.best_match(keys, P), **counts)
    for kernel in compile_only:
        taken = resources(kernel, tmp_path)
        assert taken["STACK"] + taken["LOCAL"] <= 16  # bytes: what the assembler finds cheaper so
        assert taken["REG"] * kernel.metadata.num_warps * 32 <= 65536
        assert kernel.metadata.shared <= 48 * 1024


def test_one_compiled_kernel_serves_all_tiers_and_blocks(
    compile_only: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the plan's block of threads is of one size; up to 257 patches, that is."""
    monkeypatch.setattr(triton.runtime.driver, "_active", FakeGpu(90))
    for N, R in ((197, 16), (181, 1), (180, 8), (36, 15), (3, 1)):
        keys = random_keys((2, 6, N, 64))
        counts: dict[str, Any] = {"num_removed": R, "num_tokens": N, "num_prefix_tokens": 1}
        fused.plan_prune(*fused.redundancy(keys, 1, 1), **counts)
        fused.plan_merge(*fused.best_match(keys, 1, torch.rand(2, N), 50), **counts)
    assert len({kernel.hash for kernel in compile_only}) == 5


def test_without_a_gpu_it_is_pytorch() -> None:
    assert not fused.is_available(CPU)
    assert matching_for(random_keys((1, 1, 17, 16)), LAYOUT) is PYTORCH


def test_without_triton_it_is_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_kernels", lambda: None)
    monkeypatch.setattr(fused, "_works", {})
    monkeypatch.setattr(fused, "INTERPRETED", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert not fused.is_available(CPU)
    assert not fused.is_available(CUDA)


def test_where_triton_is_missing_nothing_is_missed() -> None:
    code = "import sys; sys.modules['triton'] = None; from rapid_core import patch; "
    code += "from rapid_core.matching import fused; assert fused._kernels() is None"
    subprocess.run([sys.executable, "-c", code], cwd=HERE.parents[2], check=True)


def test_triton_is_not_imported_for_a_cpu() -> None:
    code = "import sys, torch; from rapid_core.matching import fused; "
    code += "fused.is_available(torch.device('cpu')); assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=HERE.parents[2], check=True)


@pytest.fixture
def broken_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that PyTorch believes in, on which nothing can be started."""

    def fail(_: object) -> None:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(fused, "_works", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(fused, "redundancy", lambda *_: fail(_))
    monkeypatch.setattr(torch, "eye", lambda *_, **__: torch.ones(3, 16))


@pytest.mark.usefixtures("broken_gpu")
def test_a_gpu_where_it_fails_is_tried_once_and_the_reason_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert [fused.is_available(CUDA) for _ in range(3)] == [False] * 3
    assert [record.name for record in caplog.records] == ["rapid_core.matching.fused"]
    assert "no C compiler" in caplog.text
    assert "cuda:0" in caplog.text


@pytest.mark.usefixtures("broken_gpu")
def test_a_gpu_is_not_tried_while_a_graph_is_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as recording:
        recording.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert not fused.is_available(CUDA)
    assert not caplog.records
    assert not fused.is_available(CUDA)
    assert caplog.records


def test_wrong_results_count_as_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def match(keys: Tensor, num_prefix_tokens: int) -> tuple[Tensor, Tensor]:
        return PYTORCH.best_match(keys, num_prefix_tokens, None, 0.0)

    monkeypatch.setattr(fused, "redundancy", PYTORCH.redundancy)
    monkeypatch.setattr(fused, "best_match", match)
    monkeypatch.setattr(fused, "plan_prune", PYTORCH.plan_prune)
    monkeypatch.setattr(fused, "plan_merge", PYTORCH.plan_merge)
    assert fused._try(CPU)
    monkeypatch.setattr(fused, "best_match", lambda keys, _: match(keys.flip(2), 0))
    assert not fused._try(CPU)
    assert "wrong" in caplog.text


# On a GPU


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "num_prefix_tokens"),
    [((3, 3, 197, 64), 1), ((2, 16, 577, 80), 5), ((1, 2, 1025, 64), 1), ((64, 1, 4, 2), 0)],
)
def test_gpu_scores_are_pytorchs(
    shape: tuple[int, int, int, int], num_prefix_tokens: int, dtype: torch.dtype
) -> None:
    assert fused.is_available(CUDA)
    for layout in ("qkv", "columns", "expanded"):
        keys = random_keys(shape, dtype, layout=layout)
        assert_same_scores(keys, num_prefix_tokens, CUDA, 0.3)


@pytest.mark.gpu
@NEEDS_CUDA
@given(scores())
def test_gpu_plans_are_pytorchs(problem: tuple[Tensor, Tensor, Tensor, dict[str, int]]) -> None:
    score, tie_break, destination, counts = problem
    assert_same_plans(score.cuda(), tie_break.cuda(), destination.cuda(), counts)


@pytest.mark.gpu
@NEEDS_CUDA
@given(st.data())
def test_gpu_ties_are_broken_as_in_pytorch(data: st.DataObject) -> None:
    assert_ties_broken_alike(data, CUDA)


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("method", METHODS)
def test_gpu_models_choose_alike(method: str) -> None:
    model = copy.deepcopy(tiny_vit()).float().cuda()
    assert_same_choices(model, random_images(model, 3).float().cuda(), **METHODS[method])


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("method", METHODS)
def test_gpu_graphs_replay_them(method: str) -> None:
    model = copy.deepcopy(tiny_vit()).float().cuda()
    ours, theirs = (
        rapid_core.patch(model, fused_kernels=on, **METHODS[method]) for on in (True, False)
    )
    placed = random_images(model, 4).float().cuda()
    with torch.inference_mode():
        graph, logits = recorded(ours, placed)
        for seed in range(3):
            batch = random_images(model, 4, seed=seed).float().cuda()
            placed.copy_(batch)
            graph.replay()
            torch.testing.assert_close(logits, theirs(batch), rtol=1e-4, atol=1e-4)
