"""One copy of the weights, many reductions; names, labels and refusals."""

import json
import shutil
from pathlib import Path
from typing import Literal

import pytest
import torch

import rapid_core
from service import tiers
from service.backends.placement import CPU, choose
from service.errors import ModelLoadError, ModelNotFoundError
from service.images.options import Color
from service.models import catalog, labels, timm_models
from service.models.catalog import Models
from service.models.served import ServedModel
from service.models.timm_models import timm


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> ServedModel:
    return catalog.load(str(tiny_model), CPU)


def test_all_variants_share_one_copy_of_the_weights(tiny: ServedModel) -> None:
    addresses = {
        tuple(parameter.data_ptr() for parameter in tiny.variant(method, r).module.parameters())
        for method in tiny.limits.methods
        for r in range(tiny.limits.max_r + 1)
    }
    assert len(addresses) == 1


def test_a_variant_knows_what_it_costs(tiny: ServedModel) -> None:
    variant = tiny.variant("rapid", 3)
    assert variant.schedule == (3, 3, 3, 3)
    assert variant.num_output_tokens == 17 - 12
    # Even r = 0 costs less than the model: the last block computes the CLS token alone.
    assert variant.macs < tiny.variant("tome", 0).macs < tiny.dense_macs
    assert tiny.variant("rapid", 8).schedule == (8, 4, 2, 1)
    assert tiny.variant("rapid", 3) is variant


@pytest.mark.parametrize(
    ("setting", "name", "spec"),
    [
        ("everyday-vit-s14", "everyday-vit-s14", "everyday-vit-s14"),
        ("deit_small_patch16_224.fb_in1k", *["deit_small_patch16_224.fb_in1k"] * 2),
        ("/models/mine", "mine", "/models/mine"),
        ("/models/mine/", "mine", "/models/mine/"),
        ("cats=/models/mine", "cats", "/models/mine"),
        ("hf-hub:timm/vit", "vit", "hf-hub:timm/vit"),
    ],
)
def test_a_setting_names_a_model(setting: str, name: str, spec: str) -> None:
    assert catalog.name_and_spec(setting) == (name, spec)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "ä", "a?b", "a%2Fb"])
def test_a_name_that_no_path_can_hold_is_refused(name: str) -> None:
    with pytest.raises(ModelLoadError, match="cannot be a model's name"):
        catalog.name_and_spec(f"{name}=everyday-vit-s14")


def test_models_are_found_by_name_and_the_first_is_the_default(tiny: ServedModel) -> None:
    served = Models()
    served.add(tiny)
    assert served.find(None) is served.find("tiny") is tiny
    with pytest.raises(ModelNotFoundError, match="there are: tiny"):
        served.find("other")
    with pytest.raises(ModelLoadError, match="other-name="):
        served.add(tiny)


def test_labels_of_an_imagenet_model_come_from_imagenet(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=12, num_heads=1)
    args = {"depth": 1, "embed_dim": 12, "num_heads": 1}
    config = {"model_args": args}
    timm.models.save_for_hf(model, tmp_path, model_config=config, safe_serialization=True)
    loaded = timm_models.load(str(tmp_path))
    assert len(loaded.labels) == 1000
    assert loaded.labels[1].startswith("goldfish")
    assert loaded.resize_side == 249  # 224 / 0.9


def test_a_model_without_names_for_its_classes_numbers_them(
    tmp_path: Path, tiny_model: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    del config["label_names"]
    path.write_text(json.dumps(config))
    assert timm_models.load(str(tmp_path / "model")).labels[9] == "class 9"


@pytest.mark.parametrize(
    "label", ["two\nlines", "\x1b[31mred", "nul\0", "a\u2028b", "\udc80", "a\u202eb", 7, None]
)
def test_a_label_that_is_not_one_line_of_text_is_refused(
    tmp_path: Path, tiny_model: Path, label: object
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["label_names"][3] = label
    path.write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="label 3 of the model") as caught:
        timm_models.load(str(tmp_path / "model"))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("label", ["été", "犬", "سگ", "👩‍🚒", "a b", "a\u00a0b"])
def test_a_label_may_be_in_any_language(label: str) -> None:
    assert labels.check([label]) == (label,)


def test_the_name_of_a_folder_is_one_line_too() -> None:
    with pytest.raises(ModelLoadError, match="cannot be a model's name"):
        catalog.name_and_spec("/models/a\nb")


def test_a_folder_must_hold_safetensors(tmp_path: Path, tiny_model: Path) -> None:
    shutil.copy(tiny_model / "config.json", tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"no model\.safetensors"):
        timm_models.load(str(tmp_path))


def test_a_model_that_cannot_be_reduced_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = timm.create_model("convnext_atto", num_classes=3)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    with pytest.raises(ModelLoadError, match="not a timm VisionTransformer"):
        catalog.load(str(tmp_path), CPU)


CALIBRATED = {
    "architecture": "vit_tiny_patch16_224",
    "num_pictures": 20,
    "num_held_out": 8,
    "seed": 0,
    "tiers": {
        "fast": {
            "r": [4, 2, 1, 0],
            "num_prune_blocks": 2,
            "similarity_threshold": 0.6,
            "importance_weight": 20.0,
            "clamp_importance": True,
            "macs_ratio": 0.5,
            "agreement": 0.9,
        }
    },
}


@pytest.fixture
def calibrated_model(tmp_path: Path, tiny_model: Path) -> Path:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "tiers.json").write_text(json.dumps(CALIBRATED))
    return tmp_path / "model"


def test_calibrated_tiers_lie_beside_the_model(calibrated_model: Path) -> None:
    model = catalog.load(str(calibrated_model), CPU)
    reduction = tiers.of_tier(model.limits, "fast")
    assert reduction == ("rapid", None, "fast")
    variant = model.variant(*reduction)
    assert variant.schedule == (4, 2, 1, 0)
    assert (variant.r, variant.num_output_tokens, model.agreement("fast")) == (None, 10, 0.9)
    images = torch.randn(2, 3, 64, 64)
    expected = rapid_core.patch(
        timm_models.load(str(calibrated_model)).module,
        r=[4, 2, 1, 0],
        num_prune_blocks=2,
        similarity_threshold=0.6,
        importance_weight=20.0,
        clamp_importance=True,
    )(images)
    torch.testing.assert_close(variant.module(images), expected, rtol=0, atol=1e-5)
    # Everything else keeps to a constant r.
    assert tiers.of_tier(model.limits, "turbo") == ("rapid", 4, "turbo")
    assert tiers.of_tier(model.limits, "fast", "tome") == ("tome", 3, "fast")
    assert model.agreement("turbo") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": [4, 2, 1]}, "4 blocks"),
        ({"num_prune_blocks": 9}, "num_prune_blocks"),
        ({"r": "many"}, "tiers.json cannot be used"),
        ({"speed": 2}, "tiers.json cannot be used"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused(
    calibrated_model: Path, change: dict[str, object], message: str
) -> None:
    broken = json.loads(json.dumps(CALIBRATED))
    broken["tiers"]["fast"].update(change)
    (calibrated_model / "tiers.json").write_text(json.dumps(broken))
    with pytest.raises(ModelLoadError, match=message):
        catalog.load(str(calibrated_model), CPU)


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_what_cannot_be_reduced_is_refused_whatever_computes_it(
    tmp_path: Path, backend: Literal["torch", "auto"]
) -> None:
    model = timm.create_model("resnet10t", num_classes=3)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    with pytest.raises(ModelLoadError, match="not a timm VisionTransformer"):
        catalog.load(str(tmp_path), choose("cpu", backend, "float32"))


@pytest.mark.parametrize("color", ["srgb", "ignore"])
def test_what_becomes_of_profiles_travels_with_the_model(tiny_model: Path, color: Color) -> None:
    assert catalog.load(str(tiny_model), CPU, color=color).input_spec.color == color
    assert catalog.load(str(tiny_model), CPU).input_spec.color == "srgb"
