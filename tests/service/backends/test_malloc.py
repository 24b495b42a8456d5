"""What malloc keeps, on the libc that this machine has."""

import ctypes
import platform

import pytest

from service.backends.malloc import keep_freed_memory


def test_glibc_takes_both_thresholds() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_another_libc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not keep_freed_memory()
