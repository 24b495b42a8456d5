"""The threads and processes that decode pictures, within limits of time and memory.

Each thread hands its pictures to a decoding process of its own. Pictures that need much memory go
on to a lane of their own, one after the other, so that the others do not wait for them.
Source: docs/decisions/0017.
"""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple, TypeVar

from torch import Tensor

from service.errors import TooLargeError
from service.images.decode import InputSpec
from service.images.options import DECODE_MEMORY_MIB, DECODE_TIMEOUT_S, MAX_PIXELS
from service.images.processes.budget import Budget
from service.images.processes.lane import DecodeLane
from service.images.processes.memory import MEBIBYTE
from service.images.processes.order import Order
from service.images.processes.process import Cancellation, DecodingProcess, NeedsMoreError
from service.images.turns import Turns
from service.scheduling.decodings import Decodings
from service.scheduling.jobs import PATIENT, Terms

T = TypeVar("T")
logger = logging.getLogger(__name__)

SMALLEST_BYTES = 16 * MEBIBYTE
"""what any picture may take, whatever else is being decoded"""
LARGEST_SHARE = 256 * MEBIBYTE
"""most that a picture may take beside others; one that needs more goes to the lane for these"""
MARGIN_BYTES = 64 * MEBIBYTE
"""what the system gives a process beyond what its pictures should need"""
PLACES_PER_THREAD = 2
"""pictures that a thread has, the one that it decodes included: so it never waits for the next"""
GRACE_S = 0.25
"""seconds that a picture may go on after its client has left; most are done by then"""


class DecodeLimits(NamedTuple):
    """What decoding may take."""

    max_pixels: int = MAX_PIXELS
    """most pixels of a picture, before and after resizing"""
    timeout_s: float = DECODE_TIMEOUT_S
    """longest time for a picture, waiting not included"""
    max_bytes: int = DECODE_MEMORY_MIB * MEBIBYTE
    """most memory for all pictures together"""


DEFAULT_LIMITS = DecodeLimits()


class _Picture(NamedTuple):
    """A picture on its way through the pool."""

    body: bytes
    spec: InputSpec
    cancellation: Cancellation
    needs: int = 0
    """bytes of memory; 0: not known yet"""


class DecodePool:
    """Decodes pictures. Used from the event loop only."""

    def __init__(
        self,
        num_threads: int,
        limits: DecodeLimits = DEFAULT_LIMITS,
        *,
        on_change: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Start nothing yet.

        Args:
            num_threads: how many pictures are decoded at a time, besides a large one.
            limits: of time and memory.
            on_change: called with the change in the number of pictures inside.
        """
        self.decodings = Decodings(num_threads, on_change=on_change)
        """the pictures inside, and the forecast of the time that they take"""
        self._limits = limits
        self._budget = Budget(limits.max_bytes)
        self._num_threads = num_threads
        self._turns = Turns(PLACES_PER_THREAD * num_threads)
        self._lane = DecodeLane("decode", num_threads, LARGEST_SHARE + MARGIN_BYTES)
        self._large = DecodeLane("decode-large", 1, limits.max_bytes + MARGIN_BYTES)

    async def start(self, room: int) -> None:
        """Start the processes now, so that the first pictures do not wait for them.

        Args:
            room: bytes of memory that there are for pictures; the limit becomes no higher.

        Raises:
            NotReadyError: the system does not let them start.
        """
        if room < self._limits.max_bytes:
            logger.info("little memory for pictures", extra={"mib": room // MEBIBYTE})
            self._budget = Budget(room)
        await asyncio.gather(*map(asyncio.wrap_future, self._lane.start()))

    async def decode(
        self, body: bytes, spec: InputSpec, model: str, terms: Terms = PATIENT
    ) -> tuple[Tensor, float]:
        """Pixels (3, H, W), as the transform of `spec` gives them, and the seconds that it took.

        If the call is cancelled, the work on the picture ends soon.

        Args:
            body: the image file.
            spec: the input that the model needs.
            model: name of the model, for the forecast.
            terms: whose picture it is, and when its budget ends: for its turn.

        Raises:
            ImageRejectedError: the picture cannot be decoded, or not in time.
            TooLargeError: it has more pixels than allowed, or needs more memory.
            NotReadyError: no decoding process can be started.
        """
        started = monotonic()
        picture = _Picture(body, spec, Cancellation())
        decoding = self.decodings.begin(model, len(body))

        def end(done: "asyncio.Future[tuple[Tensor, float]]") -> None:
            self._turns.leave()
            failed = done.cancelled() or done.exception() is not None
            self.decodings.end(decoding, None if failed else done.result()[1])

        try:
            await self._turns.take(terms.owner, terms.budget_ends)
        except asyncio.CancelledError:
            self.decodings.end(decoding, None)
            raise
        try:
            pixels, _ = await self._in(self._lane, self._beside_others, picture, end)
        except NeedsMoreError as exc:
            self._require_memory(exc.num_bytes)
            picture = picture._replace(needs=exc.num_bytes)
            pixels, _ = await self._in(self._large, self._alone, picture)
        return pixels, monotonic() - started

    async def _in(
        self,
        lane: DecodeLane,
        work: "Callable[[_Picture], tuple[Tensor, float]]",
        picture: _Picture,
        on_end: "Callable[[asyncio.Future[tuple[Tensor, float]]], None]" = lambda _: None,
    ) -> tuple[Tensor, float]:
        """Await work on a thread of a lane; `on_end` is called when the thread is free again."""
        running = lane.submit(work, picture)
        done = asyncio.wrap_future(running)
        done.add_done_callback(on_end)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if not running.cancel():
                asyncio.get_running_loop().call_later(GRACE_S, picture.cancellation.cancel)
            raise

    def _beside_others(self, picture: _Picture) -> tuple[Tensor, float]:
        """Decode a picture that needs little memory; see `_decode`. In a thread."""
        budget = self._budget
        share = min(LARGEST_SHARE, budget.max_bytes // self._num_threads)
        granted = share if budget.try_take(share) else 0
        try:
            return self._decode(self._lane.process, picture, max(granted, SMALLEST_BYTES))
        finally:
            budget.give(granted)

    def _alone(self, picture: _Picture) -> tuple[Tensor, float]:
        """Decode a picture that needs much memory, as soon as it is free; see `_decode`."""
        budget = self._budget
        budget.take(picture.needs)
        try:
            return self._decode(self._large.process, picture, picture.needs)
        finally:
            budget.give(picture.needs)

    def _decode(
        self, process: DecodingProcess, picture: _Picture, max_bytes: int
    ) -> tuple[Tensor, float]:
        """Pixels, and the seconds that decoding itself took."""
        started = monotonic()
        spec = picture.spec
        order = Order(
            *(spec.resize_side, self._limits.max_pixels, max_bytes),
            *(spec.shrink, spec.color, spec.cut),
        )
        image = process.decode(picture.body, order, self._limits.timeout_s, picture.cancellation)
        return spec.prepared(image), monotonic() - started

    def _require_memory(self, num_bytes: int) -> None:
        if num_bytes > self._budget.max_bytes:
            raise TooLargeError(
                f"decoding the image may take {num_bytes // MEBIBYTE} MiB of memory; allowed are "
                f"{self._budget.max_bytes // MEBIBYTE} MiB, send a smaller one"
            )

    async def run(self, work: Callable[..., T], *given: object) -> T:
        """Do other work on one of the threads, off the event loop."""
        return await asyncio.wrap_future(self._lane.submit(work, *given))

    def close(self) -> None:
        """Begin no further work, and end the processes."""
        self._lane.close()
        self._large.close()
