"""What an earlier start has found is found again, and nothing that goes wrong with it matters."""

from pathlib import Path

import pytest

from service.runtime import remembered
from service.telemetry.events import WayChosen, WayTried

ABOUT = {"machine": {"avx2": True, "cores": 2}, "model": "m", "settings": ["a"]}
TRIED = (WayTried("onednn", "bfloat16", "chosen", {"exact": 9.5}, 2.0, 100, 99),)
WAY = WayChosen("m", "onednn", "bfloat16", "fastest", tried=TRIED)


@pytest.fixture(name="cache", autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rapid-vit"


@pytest.fixture(name="folder")
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return folder


def test_it_lies_beside_the_model_and_is_found_for_the_same_only(folder: Path, cache: Path) -> None:
    remembered.keep(WAY, ABOUT, folder)
    found = remembered.find(ABOUT, folder)
    assert found is not None
    assert found.is_remembered
    assert (found.backend, found.precision, found.reason) == ("onednn", "bfloat16", "fastest")
    assert tuple(found.tried) == TRIED
    assert remembered.find({**ABOUT, "settings": ["b"]}, folder) is None
    assert remembered.find(ABOUT, None) is None
    assert not cache.exists()


@pytest.mark.parametrize("has_folder", [True, False])
def test_without_a_folder_to_write_to_it_lies_in_the_cache(
    folder: Path, cache: Path, has_folder: bool
) -> None:
    beside = folder / "no folder" if has_folder else None
    if beside is not None:
        beside.write_text("a file: nothing can be written in it, by whomever")
    remembered.keep(WAY, ABOUT, beside)
    assert len(list(cache.iterdir())) == 1
    assert remembered.find(ABOUT, beside) is not None


def test_where_nothing_can_be_written_nothing_fails(
    folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.write_text("a file")
    beside = folder / "file"
    beside.write_text("a file")
    remembered.keep(WAY, ABOUT, beside)
    assert "cannot be remembered" in caplog.text
    assert remembered.find(ABOUT, beside) is None


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"\xff", b'{"about": 1}', None])
def test_a_damaged_file_is_as_none(folder: Path, damaged: bytes | None) -> None:
    remembered.keep(WAY, ABOUT, folder)
    (path,) = folder.iterdir()
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"reason"', b'"cause"') if damaged is None else damaged)
    assert remembered.find(ABOUT, folder) is None
    remembered.keep(WAY, ABOUT, folder)
    assert remembered.find(ABOUT, folder) is not None
