"""Weights laid out for the CPU: the same answers within what the precision promises."""

import itertools
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import rapid_core
from service.backends import onednn
from service.backends.onednn import PackedLinear
from service.backends.placement import CPU, Placement, choose
from service.errors import SettingsError
from service.models import catalog

ONEDNN = Placement(torch.device("cpu"), "onednn")

pytestmark = pytest.mark.skipif(
    not onednn.is_available(), reason="this build of PyTorch has no oneDNN"
)

LARGEST_ERROR = {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.05}
"""of a product, as a share of its largest value"""


@pytest.mark.parametrize("precision", LARGEST_ERROR)
@pytest.mark.parametrize("with_gelu", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 48), (3, 7, 48), (2, 5, 6, 48), (3, 197, 48)])
def test_a_packed_layer_computes_what_the_layer_does(
    precision: onednn.Precision, with_gelu: bool, has_bias: bool, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, bias=has_bias)
    x = torch.randn(shape)
    exact = x.double() @ linear.weight.double().mT
    exact = exact + linear.bias.double() if has_bias else exact
    expected = exact * 0.5 * (1 + torch.erf(exact / 2**0.5)) if with_gelu else exact
    packed = PackedLinear(linear, precision, with_gelu=with_gelu)
    with torch.inference_mode():
        found = packed(x)
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < LARGEST_ERROR[precision]
    if precision != "float32":
        assert error > LARGEST_ERROR["float32"]  # it really computes in fewer bits


@pytest.mark.parametrize("num_rows", [1, 7, 8, 197, 257, 320, 321, 640, 641, 1576, 3001])
def test_rows_go_in_pieces_and_come_back_in_order(num_rows: int) -> None:
    x = torch.randn(num_rows, 3)
    seen: list[Tensor] = []

    def product(rows: Tensor, into: Tensor | None) -> Tensor:
        seen.append(rows)
        y = torch.cat([2 * rows, rows[:, :1] + 1], dim=1)
        return y if into is None else into.copy_(y[: len(into)])

    assert torch.equal(onednn.in_pieces(x, product, 4), torch.cat([2 * x, x[:, :1] + 1], dim=1))
    assert max(map(len, seen)) <= onednn.MOST_ROWS
    assert sum(map(len, seen)) < num_rows + onednn.ROW_STEP * len(seen)


def test_frequent_numbers_of_rows_go_in_one_piece() -> None:
    seen = []

    def product(rows: Tensor, _into: Tensor | None) -> Tensor:
        seen.append(len(rows))
        return 2 * rows

    x = torch.randn(5, 197, 3)
    assert torch.equal(onednn.in_pieces(x, product, 3, at_once=range(197, 1577, 197)), 2 * x)
    assert seen == [985]


def test_images_that_are_not_reduced_are_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=224, depth=2).eval()
    onednn.pack(model, "float32")
    plain, seen = PackedLinear.product, []

    def product(self: PackedLinear, rows: Tensor, into: Tensor | None = None) -> Tensor:
        seen.append(len(rows))
        return plain(self, rows, into)

    monkeypatch.setattr(PackedLinear, "product", product)
    with torch.inference_mode():
        for num_images in (1, onednn.WHOLE_IMAGES):
            model(torch.zeros(num_images, 3, 224, 224))
            assert set(seen) == {num_images * 197}
            seen.clear()


def test_the_library_meets_few_numbers_of_rows() -> None:
    numbers = set()

    def product(rows: Tensor, _into: Tensor | None) -> Tensor:
        numbers.add(len(rows))
        return rows

    for num_rows in range(1, 5000):
        onednn.in_pieces(torch.empty(num_rows, 1), product, 1)
    assert len(numbers) == onednn.MOST_ROWS // onednn.ROW_STEP


@pytest.mark.parametrize("precision", LARGEST_ERROR)
def test_a_token_gets_the_same_whoever_shares_the_batch(precision: onednn.Precision) -> None:
    torch.manual_seed(0)
    layer = PackedLinear(nn.Linear(48, 80), precision, with_gelu=True)
    tokens, neighbours = torch.randn(1, 9, 48), 1000 * torch.randn(5, 9, 48)
    with torch.inference_mode():
        alone, among = layer(tokens), layer(torch.cat([tokens, neighbours]))[:1]
    assert torch.allclose(alone, among, rtol=1e-4, atol=1e-5)


def test_the_results_go_where_they_are_wanted() -> None:
    torch.manual_seed(0)
    rows = torch.randn(16, 48)
    for precision, with_gelu in itertools.product(LARGEST_ERROR, (False, True)):
        layer = PackedLinear(nn.Linear(48, 80), precision, with_gelu=with_gelu)  # type: ignore[arg-type]
        into = torch.full((13, 80), torch.nan)
        with torch.inference_mode():
            found = layer.product(rows, into[:11])
            assert torch.equal(found, layer.product(rows)[:11].float())
        assert torch.equal(found, into[:11])
        assert into[11:].isnan().all()


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [(32, 48), (35, 50)])
def test_packed_patches_are_the_convolution(
    precision: onednn.Precision, bias: bool, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 24, kernel_size=(8, 16), stride=(8, 16), bias=bias)
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        expected = convolution(images)
        found = onednn.PackedPatches(convolution, precision)(images)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < LARGEST_ERROR[precision] * expected.abs().max()


@pytest.mark.parametrize(("stride", "is_packed"), [(16, True), (8, False)])
def test_patches_that_overlap_stay_a_convolution(stride: int, is_packed: bool) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1).eval()
    model.patch_embed.proj = nn.Conv2d(3, 192, kernel_size=16, stride=stride)
    onednn.pack(model, "int8")
    assert isinstance(model.patch_embed.proj, onednn.PackedPatches) == is_packed


KINDS = {
    "plain": {},
    "without bias": {"qkv_bias": False},
    "layer scale": {"init_values": 0.1},
    "query and key norms": {"qk_norm": True},
    "registers": {"reg_tokens": 4, "class_token": True},
    "mean pooling": {"global_pool": "avg"},
    "another activation": {"act_layer": "gelu_tanh"},
    "norm in the MLP": {"scale_mlp_norm": True},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("r", [0, 3])
def test_a_packed_model_gives_the_models_logits(options: dict[str, object], r: int) -> None:
    torch.manual_seed(0)
    model = timm.create_model(
        *("vit_tiny_patch16_224",),
        img_size=64,
        num_classes=10,
        embed_dim=32,
        depth=3,
        num_heads=4,
        **options,
    ).eval()
    packed = timm.create_model(
        *("vit_tiny_patch16_224",),
        img_size=64,
        num_classes=10,
        embed_dim=32,
        depth=3,
        num_heads=4,
        **options,
    ).eval()
    packed.load_state_dict(model.state_dict())
    onednn.pack(packed, "float32")
    x = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        plain = rapid_core.patch(model, r=r)
        fast = rapid_core.patch(packed, r=r, prefix_only=model.global_pool == "token")
        assert torch.allclose(fast(x), plain(x), atol=1e-5)
    assert sum(isinstance(layer, PackedLinear) for layer in packed.modules()) == 3 * 4 - 1


@pytest.mark.parametrize(
    ("precision", "options", "is_narrow"),
    [
        ("float32", {}, False),
        ("bfloat16", {}, True),
        ("int8", {}, True),
        ("bfloat16", {"qk_norm": True}, False),
    ],
)
def test_attention_is_computed_in_the_fast_precision(
    precision: onednn.Precision, options: dict[str, bool], is_narrow: bool
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(
        *("vit_tiny_patch16_224",), img_size=64, embed_dim=32, depth=2, num_heads=4, **options
    ).eval()
    onednn.pack(model, precision)
    first, last = (block.attn for block in model.blocks)
    x = torch.randn(2, 17, 32)
    with torch.inference_mode():
        assert (first.qkv(x).dtype == torch.bfloat16) == is_narrow
        assert first(x).dtype == torch.float32
        assert last.qkv(x).dtype == torch.float32
    assert first.fused_attn != is_narrow
    assert last.fused_attn


def test_an_image_gets_the_same_whoever_shares_its_batch() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3).eval()
    onednn.pack(model, "bfloat16")
    reduced = rapid_core.patch(model, r=3, prefix_only=True)
    image, neighbours = torch.randn(1, 3, 64, 64), 5 * torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        alone, among = reduced(image), reduced(torch.cat([image, neighbours]))[:1]
    assert torch.allclose(alone, among, atol=0.02)


def test_nothing_of_the_weights_is_kept_twice() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3).eval()
    onednn.pack(model, "float32")
    layers = [layer for layer in model.blocks.modules() if isinstance(layer, nn.Linear)]
    on_meta = [layer.weight.device.type == "meta" for layer in layers]
    assert on_meta.count(False) == 1  # the queries of the last block need part of theirs


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_the_bundled_model_keeps_its_answers(
    examples: list[Path], precision: onednn.Precision
) -> None:
    placement = ONEDNN._replace(precision=precision)
    plain, fast = (catalog.load("everyday-vit-s14", each) for each in (CPU, placement))
    pixels = torch.stack([plain.transform(Image.open(path).convert("RGB")) for path in examples])
    for method, r in (("rapid", 0), ("rapid", 14), ("tome", 8)):
        with torch.inference_mode():
            expected = plain.variant(method, r).module(pixels)
            found = fast.variant(method, r).module(pixels)
        assert (found.argmax(dim=1) == expected.argmax(dim=1)).float().mean() >= 11 / 12
        if precision == "float32":
            assert torch.allclose(found, expected, atol=1e-3)
        assert fast.variant(method, r).macs_ratio == plain.variant(method, r).macs_ratio


# What the settings mean.


def test_on_the_cpu_the_faster_library_is_the_default() -> None:
    assert choose("cpu", "auto", "float32") == ONEDNN
    assert choose("cpu", "torch", "float32") == CPU
    assert choose("cpu", "auto", "int8") == ONEDNN._replace(precision="int8")
    assert choose("cuda:1", "auto", "bfloat16").dtype == torch.bfloat16
    assert choose("cpu", "auto", "bfloat16").dtype == torch.float32


def test_on_a_gpu_the_default_is_fused_kernels_and_torch_is_without() -> None:
    assert choose("cuda", "auto", "float16").backend == "triton"
    assert choose("cuda", "torch", "float16").backend == "torch"


def test_without_the_library_the_default_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "is_available", lambda: False)
    assert choose("cpu", "auto", "float32") == CPU
    with pytest.raises(SettingsError, match="no oneDNN"):
        choose("cpu", "auto", "int8")


@pytest.mark.parametrize(
    ("device", "backend", "precision", "says"),
    [
        ("cpu", "torch", "int8", "does not compute in int8"),
        ("cpu", "auto", "float16", "does not compute in float16"),
        ("cuda", "auto", "int8", "for the CPU"),
        ("cuda", "onednn", "float32", "for the CPU"),
        ("cuda", "openvino", "float32", "for the CPU"),
        ("cpu", "openvino", "int8", "does not compute in int8; allowed is float32"),
    ],
)
def test_what_is_not_to_be_had_is_said(
    device: str, backend: str, precision: str, says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        choose(device, backend, precision)  # type: ignore[arg-type]


def test_operators_that_compute_something_else_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    product = onednn.PackedLinear.forward
    assert onednn._computes_as_expected()
    monkeypatch.setattr(onednn.PackedLinear, "forward", lambda self, x: product(self, x) + 0.01)
    assert not onednn._computes_as_expected()
    monkeypatch.setattr(onednn, "ONE_DNN", object())
    monkeypatch.setattr(
        onednn.PackedLinear, "__init__", lambda *_, **__: torch.ops.mkldnn._linear_pointwise()
    )
    assert not onednn._computes_as_expected()
