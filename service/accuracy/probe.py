"""Live accuracy: labelled pictures run through every tier while the device has spare time."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from torch import Tensor

from service.accuracy.counts import Measured
from service.accuracy.probe_set import ProbeSet
from service.backends.contract import Variant
from service.errors import NotReadyError
from service.images.pool import DecodePool
from service.models.served import ServedModel
from service.telemetry.events import ProbeDone, TierMeasured
from service.telemetry.record import AccuracyRecord
from service.tiers import TIERS, Tier

logger = logging.getLogger(__name__)

Infer = Callable[[Variant, Sequence[Tensor]], Awaitable[Sequence[Tensor]]]
"""images (3, H, W) -> logits (K,) of each."""


class Probe:
    """Measures the accuracy of each model's tiers, and publishes it."""

    def __init__(self, infer: Infer, pool: DecodePool, record: AccuracyRecord) -> None:
        """Create a probe; `run` measures.

        Args:
            infer: runs some images, in spare time.
            pool: decodes pictures.
            record: told of the accuracy.
        """
        self._infer = infer
        self._pool = pool
        self._record = record
        self._latest: dict[str, Mapping[Tier, Measured]] = {}

    def latest(self, model: str) -> Mapping[Tier, Measured]:
        """Counts of the last complete probe of a model; empty before the first one."""
        return self._latest.get(model, {})

    async def run(
        self, probe_sets: Sequence[tuple[ServedModel, ProbeSet]], interval_s: float
    ) -> None:
        """Probe all models, round after round. A failed probe is logged, and the rounds go on.

        Args:
            probe_sets: models with their labelled pictures.
            interval_s: seconds from the start of a round to the start of the next one.
        """
        for model, probe_set in probe_sets:
            self._publish_baseline(model, probe_set)
            for tier in TIERS:
                self._record.pictures_probed(model.name, model.at(tier).method, tier, 0)
        while True:
            started = time.monotonic()
            for model, probe_set in probe_sets:
                try:
                    await self._probe(model, probe_set)
                except NotReadyError:
                    return  # the service is going away
                except Exception:  # clients are served whatever is wrong with a picture
                    logger.exception("a probe failed", extra={"model": model.name})
            await asyncio.sleep(max(0.0, started + interval_s - time.monotonic()))

    async def _probe(self, model: ServedModel, probe_set: ProbeSet) -> None:
        started = time.monotonic()
        measured = {tier: Measured() for tier in TIERS}
        for picture in probe_set.pictures:
            body = await asyncio.to_thread(picture.path.read_bytes)
            pixels, _ = await self._pool.decode(body, model.input_spec, model.name)
            await measure(model, [(pixels, picture.label)], measured, self._infer)
            for tier in TIERS:
                self._record.pictures_probed(model.name, model.at(tier).method, tier, 1)
        self._latest[model.name] = measured
        self._record.probe_done(
            ProbeDone(
                model.name,
                len(probe_set.pictures),
                time.monotonic() - started,
                [_event(model, tier, counts) for tier, counts in measured.items()],
            )
        )

    def _publish_baseline(self, model: ServedModel, probe_set: ProbeSet) -> None:
        if probe_set.baseline is None:
            return
        for tier, known in probe_set.baseline.tiers.items():
            reached = TierMeasured(model.at(tier).method, tier, known.top1, known.top5)
            self._record.baseline_known(model.name, reached)


async def measure(
    model: ServedModel,
    pictures: Sequence[tuple[Tensor, int]],
    measured: dict[Tier, Measured],
    infer: Infer,
) -> None:
    """Run labelled pictures through some tiers and count the right answers.

    Args:
        model: the model.
        pictures: of each, pixels (3, H, W) and the index of the right class.
        measured: the tiers, each with the counts to add to.
        infer: computes the logits of the pictures.
    """
    pixels = [pixels for pixels, _ in pictures]
    unreduced = await infer(model.at("exact"), pixels)
    for tier, counts in measured.items():
        rows = unreduced if tier == "exact" else await infer(model.at(tier), pixels)
        for row, (_, label), reference in zip(rows, pictures, unreduced, strict=True):
            counts.add(row, label=label, unreduced=reference)


def _event(model: ServedModel, tier: Tier, counts: Measured) -> TierMeasured:
    return TierMeasured(
        model.at(tier).method,
        tier,
        counts.top1.value,
        counts.top5.value,
        counts.agreement.value,
    )
