"""Keeps freed memory in the process, for the next batch."""

import ctypes

MEBIBYTE = 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""parameters of mallopt, from glibc's malloc.h"""
KEPT_BYTES = 256 * MEBIBYTE
LARGEST_KEPT_BYTES = 32 * MEBIBYTE
"""largest block that stays in the process; glibc allows no more"""


def keep_freed_memory() -> bool:
    """Let malloc keep what one batch frees for the next one; False: this is not glibc.

    Otherwise malloc gives large blocks back to the kernel at once. The kernel then hands them out
    again page by page, filled with zeros.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl and macOS have other allocators
        return False
    return bool(
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    )
