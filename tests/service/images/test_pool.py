"""The decoder says how long pictures will take, and counts what is inside."""

import asyncio
import threading
from pathlib import Path

import pytest
import torch

from service.backends.placement import CPU
from service.errors import ImageRejectedError
from service.images import decode
from service.images.pool import Decoder
from service.models import catalog
from service.models.served import ServedModel

pytestmark = pytest.mark.anyio


@pytest.fixture(name="model", scope="module")
def load(tiny_model: Path) -> ServedModel:
    return catalog.load(str(tiny_model), CPU)


async def test_it_decodes_as_the_image_module_does(model: ServedModel, owl: bytes) -> None:
    decoder = Decoder(1, max_pixels=10**7)
    pixels, seconds = await decoder.decode(owl, model)
    spec = decode.InputSpec(model.transform, model.resize_side, 10**7)
    assert torch.equal(pixels, decode.decode(owl, spec))
    assert seconds > 0
    with pytest.raises(ImageRejectedError):
        await decoder.decode(b"no picture", model)
    assert decoder.num_inside == 0
    decoder.close()


async def test_what_waits_for_a_thread_does_not_make_the_forecast_longer(
    model: ServedModel, owl: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    original = decode.decode

    def held(picture: bytes, spec: decode.InputSpec) -> torch.Tensor:
        gate.wait(30)
        return original(picture, spec)

    decoder = Decoder(1, max_pixels=10**7)
    took = [(await decoder.decode(owl, model))[1] for _ in range(20)]
    before_s = decoder.expected_s([len(owl)], model)
    monkeypatch.setattr(decode, "decode", held)
    waiting = [asyncio.create_task(decoder.decode(owl, model)) for _ in range(8)]
    await asyncio.sleep(0)
    assert decoder.num_inside == 8
    assert decoder.expected_s([len(owl)], model) == pytest.approx(9 * before_s, rel=0.2)
    # Six times as long as usual: all but the first will have waited, none will have worked longer.
    await asyncio.sleep(6 * max(took))
    monkeypatch.setattr(decode, "decode", original)
    gate.set()
    waited = [seconds for _, seconds in await asyncio.gather(*waiting)]
    assert min(waited) >= 6 * max(took)
    for _ in range(3):
        await decoder.decode(owl, model)
    assert decoder.expected_s([len(owl)], model) < 4 * before_s
    assert decoder.num_inside == 0
    decoder.close()


async def test_several_threads_share_the_pictures_of_a_request(
    model: ServedModel, owl: bytes
) -> None:
    one, two = Decoder(1, max_pixels=10**7), Decoder(2, max_pixels=10**7)
    sizes = [len(owl)] * 16
    assert two.expected_s(sizes, model) == pytest.approx(one.expected_s(sizes, model) / 2)
    assert two.expected_s(sizes[:1], model) == pytest.approx(one.expected_s(sizes[:1], model))
    assert one.expected_s([], model) == 0
    one.close()
    two.close()
