"""`rapid calibrate`: from a folder of pictures to tiers that the service runs."""

import json
import shutil
from pathlib import Path

import pytest

from service import tiers
from service.__main__ import main
from service.backends.placement import CPU
from service.models import catalog
from service.tiers import TIER_MACS, TIERS
from tests.conftest import BUNDLED


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_a_calibrated_model_is_served_with_its_tiers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(folder), "--images", str(BUNDLED / "examples")]) == 0
    out, err = capsys.readouterr()
    assert out == f"wrote {folder / 'tiers.json'}\n"
    written = json.loads((folder / "tiers.json").read_text())
    assert (written["num_pictures"], written["num_held_out"]) == (12, 5)
    assert not (folder / "tiers.progress.json").exists()
    model = catalog.load(str(folder), CPU)
    # Of 16 patches in 4 blocks, not enough can go for the last tiers.
    assert {"high", "balanced"} <= model.limits.calibrated < set(TIERS[1:])
    left_out = set(TIERS[1:]) - model.limits.calibrated
    assert {line.partition(" is left out: ")[0] for line in err.splitlines()} == left_out
    for tier in model.limits.calibrated:
        variant = model.variant(*tiers.of_tier(model.limits, tier))
        assert variant.macs <= TIER_MACS[tier] * model.dense_macs
        assert variant.r is None
        assert model.agreement(tier) == written["tiers"][tier]["agreement"]


@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        ("everyday-vit-s14", "nothing-here", "has no images"),
        ("deit_tiny_patch16_224", "nothing-here", "--out"),
        ("./nowhere", "nothing-here", "no config.json"),
    ],
)
def test_it_says_what_is_missing(
    model: str, images: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", model, "--images", images]) == 1
    assert message in capsys.readouterr().err


def test_the_bundled_model_ships_its_tiers() -> None:
    model = catalog.load("everyday-vit-s14", CPU)
    assert model.limits.calibrated == set(TIERS[1:])
    for tier in TIERS[1:]:
        variant = model.variant(*tiers.of_tier(model.limits, tier))
        share = variant.macs / model.dense_macs
        assert TIER_MACS[tier] - 0.01 < share <= TIER_MACS[tier]
