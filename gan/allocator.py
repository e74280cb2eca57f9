"""How the C library hands out memory on the CPU."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Let glibc reuse the memory of freed tensors instead of giving it back to the kernel; returns whether it will.

    Activations of some megabytes are otherwise mapped and unmapped, and their pages cleared, in every layer of every
    step.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_M_MMAP_THRESHOLD, 2**30)) and bool(library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
