"""What a complete probe found, kept for the next start of the same model on the same machine."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service import cache
from service.accuracy.counts import Measured
from service.accuracy.probe_set import ProbeSet
from service.cache import Cache
from service.models.served import ServedModel
from service.tiers import TIERS, Tier

logger = logging.getLogger(__name__)


class Found(NamedTuple):
    """What a probe found."""

    tiers: Mapping[Tier, Measured]
    finished: float
    """Unix time"""
    seconds: float
    """that the probe took"""
    is_complete: bool = True
    """False: after the first pictures of a probe that goes on"""


class _Counts(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    num_pictures: int = Field(ge=1)
    num_top1: int = Field(ge=0)
    num_top5: int = Field(ge=0)
    num_agreeing: int = Field(ge=0)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    finished: float = Field(ge=0, allow_inf_nan=False)
    seconds: float = Field(ge=0, allow_inf_nan=False)
    tiers: dict[Tier, _Counts]


class ProbeCache:
    """Complete probes by everything that their counts depend on. All of it blocks."""

    def __init__(self, cache: Cache, computes: Sequence[str] = ()) -> None:
        """Use a cache.

        Args:
            cache: holds the results.
            computes: device, backend, precision and other choices of how pictures are classified.
        """
        self._cache = cache
        self._computes = tuple(computes)

    def key(self, model: ServedModel, probe_set: ProbeSet) -> str:
        """A text that changes with the model, the pictures, the machine, the versions, the choices.

        Raises:
            OSError: a picture cannot be read.
        """
        pictures = [
            (picture.path.name, picture.label, cache.digest(picture.path.read_bytes()))
            for picture in probe_set.pictures
        ]
        facts = sorted(cache.machine().items())
        return cache.fingerprint("probe", model.fingerprint, self._computes, pictures, facts)

    def read(self, key: str, probe_set: ProbeSet) -> Found | None:
        """The newest result under a key; None: there is none, or it cannot be one."""
        content = self._cache.read(key)
        if content is None:
            return None
        try:
            file = _File.model_validate(content)
        except ValidationError as exc:
            logger.debug("a cached probe cannot be used", exc_info=exc)
            return None
        num_pictures = len(probe_set.pictures)
        is_plausible = file.finished <= time.time() and all(
            counts.num_pictures == num_pictures >= counts.num_top5 >= counts.num_top1
            and counts.num_agreeing <= num_pictures
            for counts in file.tiers.values()
        )
        if not is_plausible or file.tiers.keys() != set(TIERS):
            return None
        tiers = {tier: Measured(**file.tiers[tier].model_dump()) for tier in TIERS}
        return Found(tiers, file.finished, file.seconds)

    def write(self, key: str, found: Found) -> None:
        """Keep a complete result."""
        tiers = {tier: asdict(counts) for tier, counts in found.tiers.items()}
        self._cache.write(
            key, {"finished": found.finished, "seconds": found.seconds, "tiers": tiers}
        )
