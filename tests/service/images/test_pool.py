"""The pool decodes within limits, says how long pictures will take, and counts what is inside."""

import asyncio
import io
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image

from service.backends.placement import CPU
from service.errors import ImageRejectedError, ServiceError, TooLargeError
from service.images import decode
from service.images import pool as pool_module
from service.images.options import Resize
from service.images.pool import DecodeLimits, DecodePool
from service.images.processes.budget import Budget
from service.images.processes.memory import MEBIBYTE
from service.images.processes.order import Order
from service.images.processes.process import Cancellation, DecodingProcess
from service.models import catalog
from service.models.served import ServedModel

pytestmark = pytest.mark.anyio


def saved(size: tuple[int, int], file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, file_format)
    return file.getvalue()


SLOW = saved((4300, 4300))
"""some tenths of a second, and the memory that a picture may take beside others"""
LARGE = saved((6000, 6000))
"""more memory than that"""


@pytest.fixture(name="model", scope="module")
def load(tiny_model: Path) -> ServedModel:
    return catalog.load(str(tiny_model), CPU)


async def test_it_decodes_as_the_image_module_does(model: ServedModel, owl: bytes) -> None:
    pool = DecodePool(1)
    pixels, seconds = await pool.decode(owl, model.input_spec, model.name)
    spec = decode.InputSpec(model.transform, model.input_spec.resize_side)
    assert torch.equal(pixels, decode.decode(owl, spec))
    assert seconds > 0
    with pytest.raises(ImageRejectedError):
        await pool.decode(b"no picture", model.input_spec, model.name)
    assert pool.decodings.num_inside == 0
    pool.close()


async def test_what_waits_for_a_thread_does_not_make_the_forecast_longer(
    model: ServedModel, owl: bytes
) -> None:
    gate = threading.Event()

    def held(picture: Image.Image) -> torch.Tensor:
        gate.wait(30)
        return spec.transform(picture)

    pool = DecodePool(1)
    spec, name = model.input_spec, model.name
    took = [(await pool.decode(owl, spec, name))[1] for _ in range(20)]
    before_s = pool.decodings.expected_s([len(owl)], name)
    first = asyncio.create_task(pool.decode(owl, spec._replace(transform=held), name))
    others = [asyncio.create_task(pool.decode(owl, spec, name)) for _ in range(7)]
    await asyncio.sleep(0)
    assert pool.decodings.num_inside == 8
    assert pool.decodings.expected_s([len(owl)], name) == pytest.approx(9 * before_s, rel=0.2)
    # Six times as long as usual: all but the first have waited, none has worked longer.
    await asyncio.sleep(6 * max(took))
    gate.set()
    waited = [seconds for _, seconds in await asyncio.gather(first, *others)]
    assert min(waited) >= 6 * max(took)
    for _ in range(3):
        await pool.decode(owl, spec, name)
    assert pool.decodings.expected_s([len(owl)], name) < 4 * before_s
    assert pool.decodings.num_inside == 0
    pool.close()


async def test_several_threads_share_the_pictures_of_a_request(
    model: ServedModel, owl: bytes
) -> None:
    one, two = DecodePool(1), DecodePool(2)
    sizes = [len(owl)] * 16
    name = model.name
    assert two.decodings.expected_s(sizes, name) == pytest.approx(
        one.decodings.expected_s(sizes, name) / 2
    )
    assert two.decodings.expected_s(sizes[:1], name) == pytest.approx(
        one.decodings.expected_s(sizes[:1], name)
    )
    assert one.decodings.expected_s([], name) == 0
    one.close()
    two.close()


@asynccontextmanager
async def opened(num_threads: int = 1, **limits: float) -> AsyncIterator[DecodePool]:
    """A pool, whose processes are gone at the end."""
    opened = DecodePool(num_threads, DecodeLimits()._replace(**limits))
    try:
        yield opened
    finally:
        opened.close()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def cpu_s(process: int) -> float:
    return sum(psutil.Process(process).cpu_times()[:2])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(0.005)


async def test_a_picture_takes_no_longer_than_it_may(model: ServedModel) -> None:
    before = children()
    async with opened(timeout_s=0.02) as pool:
        for body in (SLOW, LARGE):
            with pytest.raises(ImageRejectedError, match=r"takes longer than 0.02 s; send a small"):
                await pool.decode(body, model.input_spec, "tiny")
            assert pool.decodings.num_inside == 0
    await until(lambda: children() <= before)


async def test_work_ends_when_its_client_leaves_and_counts_until_then(
    model: ServedModel, owl: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "GRACE_S", 0.0)
    spec, before = model.input_spec, children()
    async with opened() as pool:
        await pool.decode(owl, spec, "tiny")
        (first,) = children() - before
        started_s = cpu_s(first)
        leaving = asyncio.create_task(pool.decode(SLOW, spec, "tiny"))
        waiting = asyncio.create_task(pool.decode(SLOW, spec, "tiny"))
        await until(lambda: cpu_s(first) > started_s)
        waiting.cancel()
        leaving.cancel()
        await asyncio.gather(waiting, leaving, return_exceptions=True)
        assert pool.decodings.num_inside == 1  # the one that waited is gone, the other is busy
        pixels, _ = await pool.decode(owl, spec, "tiny")
        assert torch.equal(pixels, decode.decode(owl, spec))
        assert pool.decodings.num_inside == 0
        (second,) = children() - before
        assert second != first


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (signal.SIGSEGV, ImageRejectedError, "its decoder ended with signal 11"),
        (signal.SIGKILL, TooLargeError, "not enough memory"),
    ],
)
async def test_a_picture_that_crashes_its_decoder_crashes_nothing_else(
    model: ServedModel, owl: bytes, number: int, error: type[ServiceError], words: str
) -> None:
    spec, before = model.input_spec, children()
    async with opened(2) as pool:
        await pool.start(2**40)
        idle_s = {process: cpu_s(process) for process in children() - before}
        crashing = asyncio.create_task(pool.decode(SLOW, spec, "tiny"))
        await until(lambda: any(cpu_s(process) > idle_s[process] for process in idle_s))
        os.kill(max(idle_s, key=lambda process: cpu_s(process) - idle_s[process]), number)
        with pytest.raises(error, match=words):
            await crashing
        for _ in range(4):
            assert (await pool.decode(owl, spec, "tiny"))[0].shape == (3, 64, 64)


async def test_small_pictures_do_not_wait_for_large_ones(model: ServedModel, owl: bytes) -> None:
    gate = threading.Event()

    def held(picture: Image.Image) -> torch.Tensor:
        gate.wait(60)
        return spec.transform(picture)

    spec = model.input_spec
    async with opened() as pool:
        slow = spec._replace(transform=held)
        large = [asyncio.create_task(pool.decode(LARGE, slow, "tiny")) for _ in range(3)]
        await until(lambda: pool.decodings.num_inside == 0)  # they are in their own lane
        for _ in range(5):
            assert (await pool.decode(owl, spec, "tiny"))[0].shape == (3, 64, 64)
        assert not any(task.done() for task in large)
        gate.set()
        assert all(pixels.shape == (3, 64, 64) for pixels, _ in await asyncio.gather(*large))


async def test_a_picture_that_needs_more_memory_than_there_is_is_refused(
    model: ServedModel, owl: bytes
) -> None:
    spec = model.input_spec
    async with opened(max_bytes=300 * MEBIBYTE) as pool:
        with pytest.raises(TooLargeError, match=r"may take \d+ MiB of memory; allowed are 300 MiB"):
            await pool.decode(LARGE, spec, "tiny")
        assert (await pool.decode(SLOW, spec, "tiny"))[0].shape == (3, 64, 64)
        await pool.start(room=100 * MEBIBYTE)
        with pytest.raises(TooLargeError, match="allowed are 100 MiB"):
            await pool.decode(SLOW, spec, "tiny")
        assert (await pool.decode(owl, spec, "tiny"))[0].shape == (3, 64, 64)


async def test_the_system_refuses_memory_that_a_header_did_not_tell_of() -> None:
    process = DecodingProcess(max_bytes=32 * MEBIBYTE)
    order = Order(resize_side=64, max_pixels=10**8, max_bytes=2**40, shrink=None, color="srgb")
    with pytest.raises(TooLargeError, match="not enough memory"):
        process.decode(SLOW, order, 60, Cancellation())
    process.close()


@pytest.mark.parametrize("resize", ["pillow", "torch"])
async def test_each_format_comes_out_bit_for_bit(
    tiny_model: Path, owl: bytes, resize: Resize
) -> None:
    spec = catalog.load(str(tiny_model), CPU, resize).input_spec
    with Image.open(io.BytesIO(owl)) as photo:
        pictures = [photo.resize(size) for size in ((200, 100), (64, 64), (30, 70), (2400, 2100))]
    async with opened(2) as pool:
        for picture in pictures:
            for file_format in ("PNG", "JPEG", "WEBP"):
                file = io.BytesIO()
                picture.save(file, file_format)
                found, _ = await pool.decode(file.getvalue(), spec, "tiny")
                expected = decode.decode(file.getvalue(), spec)
                if resize == "pillow":
                    assert torch.equal(found, expected)
                assert (found - expected).abs().max() < 3 / 255 / 0.2


def test_memory_is_shared_and_who_waits_for_much_goes_first() -> None:
    budget = Budget(10)
    assert budget.try_take(6)
    assert not budget.try_take(5)
    much = threading.Thread(target=budget.take, args=(10,))
    much.start()
    while budget.try_take(1):  # until the other one waits
        budget.give(1)
    assert much.is_alive()
    budget.give(6)
    much.join(60)
    assert not budget.try_take(1)
    budget.give(10)
    assert budget.try_take(10)
