"""Keeps freed memory in the process, for the next batch."""

import ctypes
from contextlib import suppress

MEBIBYTE = 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""parameters of mallopt, from glibc's malloc.h"""
KEPT_BYTES = 256 * MEBIBYTE
LARGEST_KEPT_BYTES = 32 * MEBIBYTE
"""largest block that stays in the process; glibc allows no more"""
MOST_ARENAS = 2
"""heaps that all threads share: what one worker has freed, another one may use"""


def keep_freed_memory() -> bool:
    """Let malloc keep what one batch frees for the next one; False: this is not glibc.

    Otherwise malloc gives large blocks back to the kernel at once. The kernel then hands them out
    again page by page, filled with zeros. Threads share few heaps: with one for each of them, the
    process grew by a tenth more under load, and went on growing.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl and macOS have other allocators
        return False
    return bool(
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        and mallopt(M_ARENA_MAX, MOST_ARENAS)
    )


def give_back_freed_memory() -> None:
    """Give the kernel what has been freed so far, for example while models were loaded."""
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
