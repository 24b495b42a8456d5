"""Which precisions are tried on which processor. No GPU is needed: its capability is a number."""

import pytest
import torch

from service.backends import candidates, onednn
from service.backends.options import Backend
from service.backends.placement import CPU, Placement, choose

PACKED = Placement(torch.device("cpu"), "onednn")
GPU = Placement(torch.device("cuda"), "triton", normalizes=True)
PLAIN = "torch float32"
PACKED32, PACKED16, PACKED8 = "onednn float32", "onednn bfloat16", "onednn int8"
TORCH16 = "torch bfloat16"


def names(ways: tuple[Placement, ...]) -> list[str]:
    return [f"{way.backend} {way.precision}" for way in ways]


@pytest.mark.parametrize(
    ("reference", "backend", "has", "expected"),
    [
        (PACKED, "auto", (), [PACKED32]),
        (PACKED, "auto", ("avx2", "avx512_f"), [PACKED32]),
        (PACKED, "auto", ("avx512_vnni",), [PACKED32, PACKED8]),
        (PACKED, "auto", ("avx_vnni",), [PACKED32, PACKED8]),
        (PACKED, "auto", ("avx512_bf16", "avx512_vnni"), [PACKED32, PACKED16, PACKED8, TORCH16]),
        (PACKED, "auto", ("amx_bf16", "amx_int8"), [PACKED32, PACKED16, PACKED8, TORCH16]),
        (PACKED, "onednn", ("amx_bf16", "amx_int8"), [PACKED32, PACKED16, PACKED8]),
        (CPU, "torch", ("amx_bf16", "amx_int8"), [PLAIN, TORCH16]),
        (PACKED._replace(backend="openvino"), "openvino", ("amx_bf16",), ["openvino float32"]),
        (CPU, "auto", ("avx512_bf16", "avx512_vnni"), [PLAIN, TORCH16]),  # without oneDNN
    ],
)
def test_only_what_the_processor_has_is_tried(
    reference: Placement, backend: Backend, has: tuple[str, ...], expected: list[str]
) -> None:
    capabilities = {name: name in has for name in (*candidates.BFLOAT16, *candidates.INT8)}
    assert names(candidates.on_cpu(reference, backend, capabilities)) == expected


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((7, 5), "float16"), ((8, 0), "bfloat16"), ((8, 9), "bfloat16"), ((10, 0), "bfloat16")],
)
def test_a_gpu_computes_in_bfloat16_from_ampere_on(
    capability: tuple[int, int], precision: str
) -> None:
    reference, half = candidates.on_gpu(GPU, capability)
    assert reference == GPU
    assert half == GPU._replace(precision=precision)


def test_this_processor_is_asked_by_names_that_pytorch_knows() -> None:
    capabilities = torch.cpu.get_capabilities()
    if capabilities["architecture"] == "x86_64":
        assert {*candidates.BFLOAT16, *candidates.INT8} - {"bf16"} <= set(capabilities)
    reference = choose("cpu", "auto", "auto")
    assert candidates.of(reference, "auto")[0] == reference
    assert reference == choose("cpu", "auto", "float32")


def test_pytorch_itself_computes_a_whole_model_in_bfloat16() -> None:
    way = choose("cpu", "torch", "bfloat16")
    assert way.dtype == torch.bfloat16
    assert way.place(torch.nn.Linear(2, 2)).weight.dtype == torch.bfloat16
    assert not onednn.is_available() or choose("cpu", "onednn", "bfloat16").dtype == torch.float32
