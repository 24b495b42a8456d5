"""Counts and durations of a model for the statistics of the Open Inference Protocol."""

import time
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Duration:
    """How often something was done, and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Count one more, which took so long."""
        self.count += 1
        self.ns += round(1e9 * seconds)


@dataclass
class ModelStatistics:
    """Counts of one model since it was loaded. Used from the event loop only."""

    num_images: int = 0
    num_batches: int = 0
    last_inference_ms: int = 0
    """Unix time"""
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    by_batch_size: dict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))

    def executed(self, num_images: int, seconds: float) -> None:
        """A batch was computed."""
        self.num_images += num_images
        self.num_batches += 1
        self.last_inference_ms = round(1000 * time.time())
        self.by_batch_size[num_images].add(seconds)

    def answered(self, *, decode_s: float, queue_s: float, inference_s: float) -> None:
        """An image was answered."""
        self.success.add(decode_s + queue_s + inference_s)
        self.compute_input.add(decode_s)
        self.queue.add(queue_s)
        self.compute_infer.add(inference_s)
        self.compute_output.add(0.0)

    def failed(self, seconds: float) -> None:
        """An image got no answer."""
        self.fail.add(seconds)
