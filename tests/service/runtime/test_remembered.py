"""What an earlier start has found is found again, and nothing that goes wrong with it matters."""

from pathlib import Path

import pytest

from service import cache
from service.cache import Cache
from service.runtime import remembered
from service.telemetry.events import WayChosen, WayTried

ABOUT = {"device": {"avx2": True, "cores": 2}, "model": "m", "settings": ["a"]}
TRIED = (WayTried("onednn", "bfloat16", "chosen", {"exact": 9.5}, 2.0, 100, 99),)
WAY = WayChosen("m", "onednn", "bfloat16", "fastest", tried=TRIED)


def test_it_is_found_for_the_same_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Cache(str(tmp_path))
    remembered.keep(WAY, ABOUT, kept)
    found = remembered.find(ABOUT, kept)
    assert found is not None
    assert found.is_remembered
    assert (found.backend, found.precision, found.reason) == ("onednn", "bfloat16", "fastest")
    assert tuple(found.tried) == TRIED
    assert remembered.find({**ABOUT, "settings": ["b"]}, kept) is None
    monkeypatch.setattr(cache, "machine", lambda: {"processor": "another"})
    assert remembered.find(ABOUT, kept) is None


def test_without_a_cache_nothing_is_remembered_and_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file: nothing can be written in it, by whomever")
    for kept in (Cache(cache.OFF), Cache(str(tmp_path / "file"))):
        remembered.keep(WAY, ABOUT, kept)
        assert remembered.find(ABOUT, kept) is None


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"\xff", b'{"about": 1}', None])
def test_a_damaged_file_is_as_none(tmp_path: Path, damaged: bytes | None) -> None:
    kept = Cache(str(tmp_path))
    remembered.keep(WAY, ABOUT, kept)
    (path,) = tmp_path.iterdir()
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"reason"', b'"cause"') if damaged is None else damaged)
    assert remembered.find(ABOUT, kept) is None
    remembered.keep(WAY, ABOUT, kept)
    assert remembered.find(ABOUT, kept) is not None
