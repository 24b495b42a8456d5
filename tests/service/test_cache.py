"""What a start leaves for the next one, and that no folder or file can disturb a start."""

import os
from pathlib import Path

import pytest

from service import cache
from service.cache import MAX_BYTES, MAX_FILES, Cache, fingerprint, machine


def test_what_was_written_is_read_under_its_name_only(tmp_path: Path) -> None:
    Cache(str(tmp_path / "a" / "b")).write("../one", {"x": [1.5, "y", None]})
    later = Cache(str(tmp_path / "a" / "b"))
    assert later.read("../one") == {"x": [1.5, "y", None]}
    assert later.read("one") is None
    later.write("../one", {})
    assert later.read("../one") == {}
    assert len(list(tmp_path.rglob("*.*"))) == 1


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b'{"x":"' + b"y" * MAX_BYTES + b'"}']
)
def test_a_damaged_file_is_no_result(tmp_path: Path, text: bytes) -> None:
    whole = Cache(str(tmp_path))
    whole.write("name", {"x": 1})
    (file,) = tmp_path.iterdir()
    file.write_bytes(text)
    assert whole.read("name") is None


def test_a_folder_that_cannot_be_used_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/rapid-vit")):
        unusable = Cache(str(place))
        unusable.write("name", {"x": 1})
        assert unusable.read("name") is None


def test_what_is_too_long_is_not_written(tmp_path: Path) -> None:
    small = Cache(str(tmp_path))
    small.write("name", {"x": "y" * MAX_BYTES})
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_files_make_room(tmp_path: Path) -> None:
    small = Cache(str(tmp_path))
    for number in range(MAX_FILES):
        small.write(str(number), {"number": number})
        os.utime(tmp_path / f"{fingerprint(number)}.json", ns=(number, number))
    small.write("new", {})
    assert small.read("new") == {}
    assert small.read("0") is None
    assert small.read("1") == {"number": 1}


def test_the_folder_is_the_users_unless_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Cache().write("name", {})
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")  # which the standard says to ignore
    Cache().write("name", {})
    Cache(cache.OFF).write("name", {})
    folders = {path.parent.relative_to(tmp_path) for path in tmp_path.rglob("*.json")}
    assert folders == {Path("xdg/rapid-vit"), Path("home/.cache/rapid-vit")}
    assert Cache(cache.OFF).read("name") is None


def test_fingerprints_tell_parts_apart() -> None:
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint("a") == fingerprint("a")


def test_the_machine_says_the_same_twice_and_names_versions() -> None:
    assert machine() == machine()
    assert machine()["torch"] not in ("", "none")
    assert machine()["processor"]
