"""Freed memory stays with the process, so that a network's large tensors need no new pages each time."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""mallopt's names for them (malloc.h)."""
_LARGEST = 2**31 - 1
_GROWN = 2**25
"""Where glibc's threshold ends up by itself: the largest block that it does not give back at once."""
OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Variables by which users set up malloc themselves, or put another one in its place."""


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed, up to 2 GiB at the end of its heap, for the rest of the process.

    By default it takes every block above some megabytes from the system and gives it back when it is freed; the system
    then clears its pages anew for every tensor of every layer. On a CPU that was 12% of an image's processor seconds
    in float32, 18% in bfloat16 (docs/performance.md). The peak stays what it was, within 4%.

    Returns:
        Whether it does so: not where malloc is another one than glibc's, or where one of `OWN_SETTINGS` is set.
    """
    return _set_thresholds(_LARGEST, _LARGEST)


def return_freed_memory() -> bool:
    """Undo `keep_freed_memory`: thresholds as glibc has them in a process that works with large blocks."""
    return _set_thresholds(_GROWN, 2 * _GROWN)


def _set_thresholds(mapped: int, trimmed: int) -> bool:
    if not sys.platform.startswith("linux") or any(os.environ.get(name) for name in OWN_SETTINGS):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:  # musl
        return False
    return bool(set_option(_MMAP_THRESHOLD, mapped)) and bool(set_option(_TRIM_THRESHOLD, trimmed))
