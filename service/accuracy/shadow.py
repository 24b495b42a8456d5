"""Agreement on live traffic: some answers are compared with what the unreduced model says."""

import asyncio
import logging
from random import Random
from typing import NamedTuple

from torch import Tensor

from service import tiers
from service.backends.contract import Variant
from service.errors import NotReadyError
from service.models.served import ServedModel
from service.scheduling.batcher import Batcher
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

MAX_WAITING = 8
"""answers that wait for their comparison; each keeps its pixels in memory until then"""


class Sample(NamedTuple):
    """An answer that a client got."""

    model: ServedModel
    variant: Variant
    tier: str
    pixels: Tensor
    """(3, H, W)"""
    logits: Tensor
    """(K,)"""


class Shadow:
    """Compares a random share of the answers, in spare time of the device. It stores nothing."""

    def __init__(
        self,
        batcher: Batcher[Variant],
        metrics: Metrics,
        *,
        fraction: float,
        seed: int | None = None,
    ) -> None:
        """Prepare it.

        Args:
            batcher: runs the unreduced model in spare time.
            metrics: what to count on.
            fraction: share of the answers to compare, 0 ... 1.
            seed: of the choice; None: another one in each process.
        """
        self._batcher = batcher
        self._metrics = metrics
        self._fraction = fraction
        self._random = Random(seed)
        self._waiting: asyncio.Queue[Sample] = asyncio.Queue(MAX_WAITING)

    def offer(self, sample: Sample) -> None:
        """Compare this answer perhaps. Never waits."""
        if not any(sample.variant.schedule) or self._random.random() >= self._fraction:
            return
        try:
            self._waiting.put_nowait(sample)
        except asyncio.QueueFull:
            self._metrics.shadow_dropped.inc()

    async def run(self) -> None:
        """Compare what was offered, until the service goes away."""
        while True:
            sample = await self._waiting.get()
            try:
                await self._compare(sample)
            except NotReadyError:
                return
            except Exception:  # clients are served on
                logger.exception("a comparison failed", extra={"model": sample.model.name})

    async def _compare(self, sample: Sample) -> None:
        unreduced = sample.model.variant(*tiers.of_tier(sample.model.limits, "exact"))
        answer = await self._batcher.submit_spare(unreduced, sample.pixels)
        labels = (sample.model.name, sample.variant.method, sample.tier)
        agrees = bool(answer.logits.argmax() == sample.logits.argmax())
        self._metrics.shadow_samples.labels(*labels).inc()
        self._metrics.shadow_agreement.labels(*labels).inc(agrees)
