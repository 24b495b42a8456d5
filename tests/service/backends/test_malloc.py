"""What malloc keeps, on the libc that this machine has."""

import ctypes
import platform

import psutil
import pytest

from service.backends.malloc import give_back_freed_memory, keep_freed_memory


def test_glibc_takes_both_thresholds() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_another_libc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not keep_freed_memory()


def test_freed_memory_goes_back_where_the_libc_can_do_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resident = psutil.Process().memory_info
    keep_freed_memory()
    blocks = [bytearray(2**20) for _ in range(200)]
    full = resident().rss
    del blocks
    give_back_freed_memory()
    if platform.libc_ver()[0] == "glibc":
        assert resident().rss < full - 100 * 2**20
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    give_back_freed_memory()  # nothing to ask, and nothing fails
