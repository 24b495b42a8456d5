"""Pictures that come as bytes and are normalised where the model is: the same numbers as timm's."""

import asyncio
from pathlib import Path

import pytest
import torch
from timm.data.transforms import MaybePILToTensor
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from service.backends.engine import NUM_MEASURED, Engine
from service.backends.pixels import to_device
from service.backends.placement import CPU
from service.images.decode import InputSpec, decode
from service.images.pool import DecodePool
from service.models import catalog
from service.models.served import ServedModel
from service.models.timm_models import create_transform, split_normalization
from tests.conftest import BUNDLED, NORMALIZING, AppClient

CPU_DEVICE = CPU.device


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> ServedModel:
    return catalog.load(str(tiny_model), NORMALIZING)


def decoded(model: ServedModel, path: Path) -> tuple[Tensor, Tensor]:
    """Bytes, and what timm's own transform gives."""
    bytes_of_it, floats = (
        decode(path.read_bytes(), InputSpec(transform, model.input_spec.resize_side))
        for transform in (model.input_spec.transform, model.transform)
    )
    assert (bytes_of_it.dtype, floats.dtype) == (torch.uint8, torch.float32)
    assert bytes_of_it.is_contiguous()
    return bytes_of_it, floats


@pytest.mark.parametrize("resize", ["pillow", "torch"])
def test_bit_for_bit_what_timms_transform_gives(
    resize: catalog.Resize, examples: list[Path]
) -> None:
    model = catalog.load(BUNDLED.name, NORMALIZING, resize)
    normalization = model.variant("rapid", 0).normalization
    images, expected = zip(*(decoded(model, path) for path in examples), strict=True)
    batch = to_device(images, normalization, device=CPU_DEVICE, dtype=torch.float32)
    assert torch.equal(batch, torch.stack(expected))


def test_bytes_and_finished_pixels_share_a_batch_in_their_order(
    model: ServedModel, examples: list[Path]
) -> None:
    pairs = [decoded(model, path) for path in examples]
    mixed = [pair[index % 3 == 0] for index, pair in enumerate(pairs)]
    assert {image.dtype for image in mixed} == {torch.uint8, torch.float32}
    normalization = model.variant("rapid", 0).normalization
    batch = to_device(mixed, normalization, device=CPU_DEVICE, dtype=torch.float32)
    assert torch.equal(batch, torch.stack([floats for _, floats in pairs]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_rounded_once_at_the_end(
    model: ServedModel, dtype: torch.dtype, examples: list[Path]
) -> None:
    image, floats = decoded(model, examples[0])
    normalization = model.variant("rapid", 0).normalization
    batch = to_device([image, floats], normalization, device=CPU_DEVICE, dtype=dtype)
    assert batch.dtype == dtype
    assert torch.equal(batch, torch.stack([floats, floats]).to(dtype))
    alone = to_device([image], normalization, device=CPU_DEVICE, dtype=dtype)
    assert torch.equal(alone, floats[None].to(dtype))


def test_by_itself_the_cpu_is_given_what_timms_transform_gives(tiny_model: Path) -> None:
    model = catalog.load(str(tiny_model), CPU)
    assert model.input_spec.transform is model.transform
    assert model.variant("rapid", 0).normalization is None


STEPS = create_transform((3, 32, 32), is_training=False).transforms


@pytest.mark.parametrize(
    "transform",
    [
        Compose(STEPS[:-1]),
        Compose([*STEPS[:-1], CenterCrop(8)]),
        Compose([*STEPS, CenterCrop(8)]),
        Compose([*STEPS[:-2], MaybePILToTensor(), STEPS[-1]]),
        Compose([]),
        Resize(32),
        lambda image: image,
    ],
)
def test_a_transform_of_another_shape_stays_whole(transform: object) -> None:
    assert split_normalization(transform) is None


def test_torchvisions_own_steps_will_do_as_well() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    split = split_normalization(Compose([Resize(32), ToTensor(), Normalize(mean, std)]))
    assert split is not None
    assert split[1].mean.flatten().tolist() == pytest.approx(mean)
    assert split[1].std.flatten().tolist() == pytest.approx(std)


@pytest.mark.anyio
async def test_an_engine_gives_both_kinds_the_same_answer(
    model: ServedModel, examples: list[Path]
) -> None:
    engine, variant = Engine(NORMALIZING, num_threads=1), model.variant("rapid", 1)
    images, floats = zip(*(decoded(model, path) for path in examples[:2]), strict=True)
    expected = await engine.forward(variant, floats)
    for batch in (images, (images[0], floats[1]), (floats[0], images[1])):
        assert torch.equal(torch.stack(await engine.forward(variant, batch)), torch.stack(expected))
    engine.close()


@pytest.mark.anyio
async def test_the_pool_gives_bytes_where_they_are_wanted(
    model: ServedModel, tiny_model: Path, examples: list[Path]
) -> None:
    pool = DecodePool(1)
    body, expected = examples[0].read_bytes(), decoded(model, examples[0])
    found = [
        (await pool.decode(body, each.input_spec, each.name))[0]
        for each in (model, catalog.load(str(tiny_model), CPU))
    ]
    pool.close()
    assert [pixels.dtype for pixels in found] == [torch.uint8, torch.float32]
    assert all(map(torch.equal, found, expected))


@pytest.mark.anyio
async def test_the_warm_up_goes_the_way_of_clients_pictures(model: ServedModel) -> None:
    variant = model.variant("rapid", 1)
    sizes = []

    def normalized(batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        return variant.normalization(batch)

    engine = Engine(NORMALIZING, num_threads=1)
    await engine.warm_up(variant._replace(normalization=normalized), model.input_size, [1, 4])
    engine.close()
    assert sizes == [1, *NUM_MEASURED * [1], 4]


@pytest.mark.usefixtures("normalizing")
@pytest.mark.anyio
async def test_requests_of_both_kinds_share_a_batch(
    app_client: AppClient, model: ServedModel, examples: list[Path]
) -> None:
    path, other = examples[:2]
    values = decoded(model, path)[1].flatten().tolist()
    entry = {"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 64, 64], "data": values}
    inputs = {"inputs": [entry], "parameters": {"tier": "exact"}}
    module = model.variant("rapid", 0).module
    with torch.inference_mode():
        rows = module(torch.stack([decoded(model, each)[1] for each in (path, other)]))
    settings = {"max_wait_ms": 5000, "max_batch_size": 2, "probe_interval_s": 0}
    async with app_client(**settings) as client:
        pixels, picture = await asyncio.gather(
            client.post("/v2/models/tiny/infer", json=inputs),
            client.post("/v1/classify?tier=exact&top_k=10", content=other.read_bytes()),
        )
    assert picture.json()["batch_size"] == 2
    (logits,) = [each for each in pixels.json()["outputs"] if each["name"] == "logits"]
    assert logits["data"] == pytest.approx(rows[0].tolist(), abs=1e-5)
    found = {each["index"]: each["probability"] for each in picture.json()["predictions"]}
    assert [found[index] for index in range(10)] == pytest.approx(
        rows[1].softmax(dim=-1).tolist(), abs=1e-5
    )
