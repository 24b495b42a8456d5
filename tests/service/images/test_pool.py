"""The pool says how long pictures will take, and counts what is inside."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from service.backends.placement import CPU
from service.errors import ImageRejectedError
from service.images import decode
from service.images.pool import DecodePool
from service.models import catalog
from service.models.served import ServedModel

pytestmark = pytest.mark.anyio


@pytest.fixture(name="model", scope="module")
def load(tiny_model: Path) -> ServedModel:
    return catalog.load(str(tiny_model), CPU)


async def test_it_decodes_as_the_image_module_does(model: ServedModel, owl: bytes) -> None:
    pool = DecodePool(1, max_pixels=10**7)
    pixels, seconds = await pool.decode(owl, model.input_spec, model.name)
    spec = decode.InputSpec(model.transform, model.input_spec.resize_side)
    assert torch.equal(pixels, decode.decode(owl, spec))
    assert seconds > 0
    with pytest.raises(ImageRejectedError):
        await pool.decode(b"no picture", model.input_spec, model.name)
    assert pool.decodings.num_inside == 0
    pool.close()


async def test_what_waits_for_a_thread_does_not_make_the_forecast_longer(
    model: ServedModel, owl: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    original = decode.decode

    def held(picture: bytes, *limits: Any) -> torch.Tensor:
        gate.wait(30)
        return original(picture, *limits)

    pool = DecodePool(1, max_pixels=10**7)
    took = [(await pool.decode(owl, model.input_spec, model.name))[1] for _ in range(20)]
    before_s = pool.decodings.expected_s([len(owl)], model.name)
    monkeypatch.setattr(decode, "decode", held)
    waiting = [
        asyncio.create_task(pool.decode(owl, model.input_spec, model.name)) for _ in range(8)
    ]
    await asyncio.sleep(0)
    assert pool.decodings.num_inside == 8
    assert pool.decodings.expected_s([len(owl)], model.name) == pytest.approx(9 * before_s, rel=0.2)
    # Six times as long as usual: all but the first will have waited, none will have worked longer.
    await asyncio.sleep(6 * max(took))
    monkeypatch.setattr(decode, "decode", original)
    gate.set()
    waited = [seconds for _, seconds in await asyncio.gather(*waiting)]
    assert min(waited) >= 6 * max(took)
    for _ in range(3):
        await pool.decode(owl, model.input_spec, model.name)
    assert pool.decodings.expected_s([len(owl)], model.name) < 4 * before_s
    assert pool.decodings.num_inside == 0
    pool.close()


async def test_several_threads_share_the_pictures_of_a_request(
    model: ServedModel, owl: bytes
) -> None:
    one, two = DecodePool(1, max_pixels=10**7), DecodePool(2, max_pixels=10**7)
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
