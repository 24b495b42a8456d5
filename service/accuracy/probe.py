"""Live accuracy: labelled pictures run through every tier while the device has spare time."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from service.accuracy.counts import Measured
from service.accuracy.probe_cache import Found, ProbeCache
from service.accuracy.probe_set import Picture, ProbeSet, in_parts
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


REST = 3.0
"""rests after a picture, as a multiple of its own time: an idle device is free for most of it"""
MAX_REST_S = 3.0
"""longest rest, as under traffic a picture takes its time without the device"""
MAX_AGE = 3.0
"""age, in intervals, beyond which the result of an earlier process is in no metric: an alert would
fire before the new probe is complete"""


class Probe:
    """Measures the accuracy of each model's tiers, and publishes it."""

    def __init__(
        self, infer: Infer, pool: DecodePool, record: AccuracyRecord, cache: ProbeCache
    ) -> None:
        """Create a probe; `run` measures.

        Args:
            infer: runs some images, in spare time.
            pool: decodes pictures.
            record: told of the accuracy.
            cache: results of earlier processes.
        """
        self._infer = infer
        self._pool = pool
        self._record = record
        self._cache = cache
        self._latest: dict[str, Found] = {}

    def latest(self, model: str) -> Found | None:
        """What the last probe of a model found; None before the first one."""
        return self._latest.get(model)

    async def run(
        self, probe_sets: Sequence[tuple[ServedModel, ProbeSet]], interval_s: float
    ) -> None:
        """Probe all models, round after round. A failed probe is logged, and the rounds go on.

        Args:
            probe_sets: models with their labelled pictures.
            interval_s: seconds from the start of a round to the start of the next one.
        """
        due = {}
        for model, probe_set in probe_sets:
            self._publish_baseline(model, probe_set)
            for tier in TIERS:
                self._record.pictures_probed(model.name, model.at(tier).method, tier, 0)
            due[model.name] = time.monotonic() + await self._recall(model, probe_set, interval_s)
        while True:
            for model, probe_set in probe_sets:
                if due[model.name] > time.monotonic():
                    continue
                due[model.name] = time.monotonic() + interval_s
                try:
                    await self._probe(model, probe_set, interval_s)
                except NotReadyError:
                    return  # the service is going away
                except Exception:  # clients are served whatever is wrong with a picture
                    logger.exception("a probe failed", extra={"model": model.name})
            next_s = min(due.values(), default=math.inf) - time.monotonic()
            await asyncio.sleep(min(max(0.0, next_s), interval_s))

    async def _recall(self, model: ServedModel, probe_set: ProbeSet, interval_s: float) -> float:
        """Take over what an earlier process has found; returns the seconds to the next probe."""
        try:
            key = await asyncio.to_thread(self._cache.key, model, probe_set)
        except OSError as exc:  # the probe says which picture
            logger.debug("no probe is recalled", exc_info=exc)
            return 0.0
        found = await asyncio.to_thread(self._cache.read, key, probe_set)
        if found is None:
            return 0.0
        self._latest[model.name] = found
        age_s = max(0.0, time.time() - found.finished)
        if age_s <= MAX_AGE * interval_s:
            self._record.probe_recalled(_event(model, found), age_s)
        return interval_s - age_s

    async def _probe(self, model: ServedModel, probe_set: ProbeSet, interval_s: float) -> None:
        started = time.monotonic()
        key = await asyncio.to_thread(self._cache.key, model, probe_set)
        measured = {tier: Measured() for tier in TIERS}
        first, rest = in_parts(probe_set.pictures)
        max_rest_s = min(MAX_REST_S, interval_s / 2 / len(probe_set.pictures))
        for place, picture in enumerate([*first, *rest], start=1):
            before = time.monotonic()
            await self._measure(model, picture, measured)
            await asyncio.sleep(min(max_rest_s, REST * (time.monotonic() - before)))
            if place == len(first) and model.name not in self._latest:
                self._publish_first(model, measured, time.monotonic() - started)
        found = Found(measured, time.time(), time.monotonic() - started)
        self._latest[model.name] = found
        self._record.probe_done(_event(model, found))
        await asyncio.to_thread(self._keep, key, model, probe_set, found)

    async def _measure(
        self, model: ServedModel, picture: Picture, measured: dict[Tier, Measured]
    ) -> None:
        body = await asyncio.to_thread(picture.path.read_bytes)
        pixels, _ = await self._pool.decode(body, model.input_spec, model.name)
        await measure(model, [(pixels, picture.label)], measured, self._infer)
        for tier in TIERS:
            self._record.pictures_probed(model.name, model.at(tier).method, tier, 1)

    def _publish_first(
        self, model: ServedModel, measured: Mapping[Tier, Measured], seconds: float
    ) -> None:
        so_far = {tier: replace(counts) for tier, counts in measured.items()}
        found = Found(so_far, time.time(), seconds, is_complete=False)
        self._latest[model.name] = found
        self._record.probe_began(_event(model, found))

    def _keep(self, key: str, model: ServedModel, probe_set: ProbeSet, found: Found) -> None:
        """Write a result for the next start, unless a picture has changed meanwhile."""
        if self._cache.key(model, probe_set) == key:
            self._cache.write(key, found)

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


def _event(model: ServedModel, found: Found) -> ProbeDone:
    tiers = [
        TierMeasured(
            model.at(tier).method,
            tier,
            counts.top1.value,
            counts.top5.value,
            counts.agreement.value,
        )
        for tier, counts in found.tiers.items()
    ]
    num_pictures = found.tiers["exact"].num_pictures
    return ProbeDone(model.name, num_pictures, found.seconds, found.finished, tiers)
