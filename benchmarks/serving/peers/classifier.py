"""What every peer serves: bytes -> pixels -> logits -> labels by this project's own functions.

Decoding, transform, the dense timm model and the answer are literally the same code for all, so
that only the servers differ. Runs in the peer's own environment, which has torch, timm and
pydantic, and finds this project by PYTHONPATH.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from service.images import decode
from service.models import timm_models
from service.pipeline import ranking

MAX_BATCH_SIZE = 8
MAX_WAIT_MS = 5
TIMEOUT_S = 60
TOP_K = 5
PORT = int(os.environ.get("PEER_PORT", "8000"))
DTYPE = {"float32": torch.float32, "bfloat16": torch.bfloat16}[
    os.environ.get("PEER_PRECISION", "float32")
]
NUM_WORKERS = int(os.environ.get("PEER_WORKERS", "1"))
"""copies of the model, each in a process of its own"""
NUM_THREADS = int(os.environ.get("PEER_THREADS", "1"))
"""of each worker, for decoding as for computing"""


class Decoder:
    """Image files -> pixels, several at a time in threads."""

    def __init__(self) -> None:
        """Take the transform of the model that PEER_MODEL names."""
        loaded = timm_models.load(os.environ["PEER_MODEL"])
        self.module, self.labels = loaded.module, loaded.labels
        # As in this project's own service: one picture is too little for PyTorch's threads.
        self.threads = ThreadPoolExecutor(
            NUM_THREADS, initializer=torch.set_num_threads, initargs=(1,)
        )
        self._spec = decode.InputSpec(loaded.transform, loaded.resize_side)

    def decode(self, body: bytes) -> Tensor:
        """Pixels (3, H, W)."""
        return decode.decode(body, self._spec)

    def decode_all(self, bodies: Sequence[bytes]) -> list[Tensor]:
        """Pixels (3, H, W) of each."""
        return list(self.threads.map(self.decode, bodies))


class Classifier(Decoder):
    """The dense model on the CPU, in `DTYPE`."""

    def __init__(self) -> None:
        """Take the model that PEER_MODEL names."""
        super().__init__()
        self.module.to(DTYPE)

    @torch.inference_mode()
    def predict(self, pixels: Sequence[Tensor]) -> list[dict[str, Any]]:
        """The best labels of each image (3, H, W)."""
        torch.set_num_threads(NUM_THREADS)  # OpenMP keeps it for each calling thread
        logits = self.module(torch.stack(list(pixels)).to(DTYPE)).float()
        best = [ranking.rank(row, self.labels, TOP_K) for row in logits]
        return [{"predictions": [asdict(label) for label in labels]} for labels in best]
