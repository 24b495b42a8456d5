"""The host never waits for the device, and one compiled graph serves every batch of a shape."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rapid_core

from .laws import name_of, requests_of
from .tiny import random_images, tiny_vit

WAITS = {"item", "nonzero", "tolist", "cpu", "numpy", "masked_select", "unique", "synchronize"}
SOURCES = sorted(Path(rapid_core.__file__).parent.rglob("*.py"))
REQUESTS: dict[str, dict[str, Any]] = {
    name_of(request): {"r": 3, **request}
    for method in rapid_core.METHODS
    for request in requests_of(method)
} | {
    "rapid_list": {"r": [3, 0, 4, 99]},
    "rapid_prefix_only": {"r": 3, "prefix_only": True},
    "patch_similarity_at_input_of_a_few": {"r": 2, "method": "patch_similarity", "at_input": True},
    "random_with_a_seed": {"r": 3, "method": "random", "seed": 3},
}


# Its searches read scores back on purpose; no forward goes through it.
OFFLINE = {"calibration.py"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_in_a_forward_reads_from_the_device(path: Path) -> None:
    calls = [
        node.func.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    if path.name not in OFFLINE:
        assert not WAITS.intersection(calls)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", REQUESTS)
def test_one_graph_and_no_recompilation(name: str, backend: str) -> None:
    model = tiny_vit()
    assert_compiles_once(rapid_core.patch(model, **REQUESTS[name]), backend)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["avg", "avgmax", "map"])
def test_also_with_pooling_by_size(pooling: str) -> None:
    model = tiny_vit(global_pool=pooling, class_token=False)
    assert_compiles_once(rapid_core.patch(model, r=3), "eager")


def assert_compiles_once(reduced: nn.Module, backend: str) -> None:
    torch._dynamo.reset()
    batches = [random_images(reduced, 3, seed=seed) for seed in (1, 2)]
    with torch.no_grad():
        expected = [reduced(images) for images in batches]
        compiled = torch.compile(reduced, fullgraph=True, backend=backend, dynamic=False)
        with torch._dynamo.config.patch(error_on_recompile=True):
            logits = [compiled(images) for images in batches]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
