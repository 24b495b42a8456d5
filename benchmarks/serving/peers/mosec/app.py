"""mosec: a stage of processes that decode, then a stage that computes with dynamic batching."""

from typing import Any

import torch
from mosec import Server, Worker
from torch import Tensor

from benchmarks.serving.peers import classifier
from benchmarks.serving.peers.classifier import Classifier, Decoder


class Decode(Worker):
    """JPEG -> pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = Decoder()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> Any:
        return self.decoder.decode(data).numpy()


class Predict(Worker):
    """Pixels -> labels."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = Classifier()

    def forward(self, data: list[Any]) -> list[dict[str, Any]]:
        pixels: list[Tensor] = [torch.from_numpy(array) for array in data]
        return self.classifier.predict(pixels)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Decode, num=classifier.NUM_WORKERS * classifier.NUM_THREADS)
    server.append_worker(
        Predict,
        num=classifier.NUM_WORKERS,
        max_batch_size=classifier.MAX_BATCH_SIZE,
        max_wait_time=classifier.MAX_WAIT_MS,
    )
    server.run()
