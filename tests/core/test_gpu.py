"""On a CUDA device: the host never waits, one graph serves all batches, 16 bits stay finite."""

import pytest
import torch

import rapid_core
from service.models.timm_models import timm

from .cuda_graph import recorded

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.fixture(scope="module")
def vit() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_small_patch16_224", num_classes=10).eval().cuda()


@pytest.mark.parametrize("method", rapid_core.METHODS)
def test_the_host_never_waits(vit: torch.nn.Module, method: str) -> None:
    reduced = rapid_core.patch(vit, r=14, method=method)
    images = torch.randn(2, 3, 224, 224, device="cuda")
    with torch.inference_mode():
        reduced(images)
        torch.cuda.set_sync_debug_mode("error")
        try:
            reduced(images)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", ["rapid", "tome"])
def test_a_cuda_graph_replays_every_batch(vit: torch.nn.Module, method: str) -> None:
    reduced = rapid_core.patch(vit, r=14, method=method)
    placed = torch.randn(4, 3, 224, 224, device="cuda")
    with torch.inference_mode():
        graph, logits = recorded(reduced, placed)
        for seed in range(3):
            torch.manual_seed(seed)
            batch = torch.randn_like(placed)
            placed.copy_(batch)
            graph.replay()
            torch.testing.assert_close(logits, reduced(batch), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", rapid_core.METHODS)
def test_sixteen_bits_give_finite_logits(
    vit: torch.nn.Module, method: str, dtype: torch.dtype
) -> None:
    images = torch.randn(2, 3, 224, 224, device="cuda")
    with torch.inference_mode(), torch.autocast("cuda", dtype):
        logits = rapid_core.patch(vit, r=20, method=method)(images)
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()
