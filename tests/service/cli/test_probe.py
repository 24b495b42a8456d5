"""What `rapid probe` measures, without the command line: as a notebook would ask for it."""

import csv
import shutil
from pathlib import Path

import pytest

from service.__main__ import main
from service.cli.probe_measure import Wanted, measure_tiers
from service.cli.probe_rows import cells
from tests.conftest import BUNDLED


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures with a label each."""
    names = [path.name for path in sorted((BUNDLED / "examples").glob("*.jpg"))[:4]]
    for name in names:
        shutil.copy(BUNDLED / "examples" / name, tmp_path)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "index"), *((name, 3) for name in names)])
    return tmp_path


def test_rows_come_without_a_terminal(
    pictures: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def track(listed: object, name: str) -> list[object]:
        seen.append(name)
        return list(listed)  # type: ignore[call-overload]

    wanted = Wanted(str(tiny_model), pictures, tiers=("exact", "turbo"), batch_size=3)
    probed = measure_tiers(wanted, track)
    assert capsys.readouterr() == ("", "")
    assert seen == [probed.model] == ["tiny"]
    assert (probed.folder, probed.architecture) == (pictures, "vit_tiny_patch16_224")
    assert [(row.tier, row.num_pictures) for row in probed.rows] == [("exact", 4), ("turbo", 4)]
    exact, turbo = probed.rows
    assert exact.agreement.value == 1
    assert turbo.macs_ratio < exact.macs_ratio
    assert cells(exact)[:2] == ("exact", "0")


def test_what_cannot_be_written_is_said_in_one_line(
    pictures: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = Path("/dev/full")  # takes nothing, as a full disk does
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    arguments = ["--model", str(tiny_model), "--data", str(pictures), "--csv", str(full)]
    assert main(["probe", *arguments]) == 1
    assert capsys.readouterr().err.startswith("error: [Errno 28]")
