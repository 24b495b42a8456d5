"""A container's quota counts, not the machine's cores."""

import os
from pathlib import Path

import pytest

from service.backends import cores


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("100000 100000", 1), ("150000 100000", 2), ("50000 100000", 1), ("400000 50000", 8)],
)
def test_the_quota_bounds_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cores.count(tmp_path / "cpu.max") == expected


def test_without_a_quota_the_affinity_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7, 9})
    assert cores.count(tmp_path / "missing") == 3
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cores.count(tmp_path / "cpu.max") == 3


def test_there_is_always_one() -> None:
    assert cores.count() >= 1
