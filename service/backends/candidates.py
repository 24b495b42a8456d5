"""Which ways to compute are worth a trial on this processor.

Which of them is the fastest with the same answers is measured: `service/runtime/trial.py`.
Source: docs/decisions/0018.
"""

from collections.abc import Mapping

import torch

from service.backends import onednn
from service.backends.options import Backend
from service.backends.placement import Placement

BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
"""instructions that multiply in bfloat16: of x86, and of ARM"""
INT8 = ("avx512_vnni", "avx_vnni", "amx_int8")
"""instructions that multiply int8 without overflow; those before them saturate"""
AMPERE = (8, 0)
"""compute capability of the first GPUs with bfloat16"""


def of(reference: Placement, backend: Backend) -> tuple[Placement, ...]:
    """The placements to try instead of one in float32, with that one first.

    Args:
        reference: what `placement.choose` means by `auto`.
        backend: the setting; a backend that was named is kept.
    """
    if reference.device.type == "cuda":
        return on_gpu(reference, torch.cuda.get_device_capability(reference.device))
    return on_cpu(reference, backend, torch.cpu.get_capabilities())


def on_gpu(reference: Placement, capability: tuple[int, int]) -> tuple[Placement, ...]:
    """float32 and the 16 bits of a GPU with this compute capability."""
    half = reference._replace(precision="bfloat16" if capability >= AMPERE else "float16")
    return reference, half


def on_cpu(
    reference: Placement, backend: Backend, capabilities: Mapping[str, object]
) -> tuple[Placement, ...]:
    """float32 and what the instructions of this processor allow.

    Args:
        reference: a placement on the CPU, in float32.
        backend: the setting.
        capabilities: as `torch.cpu.get_capabilities` names them.
    """
    found = [reference]
    has_bfloat16 = any(capabilities.get(name) for name in BFLOAT16)
    is_packed = reference.backend == "onednn" and onednn.is_available()
    if is_packed and has_bfloat16:
        found.append(reference._replace(precision="bfloat16"))
    if is_packed and any(capabilities.get(name) for name in INT8):
        found.append(reference._replace(precision="int8"))
    if has_bfloat16 and backend in ("auto", "torch"):
        found.append(reference._replace(backend="torch", precision="bfloat16"))
    return tuple(found)
