"""Memory of the host."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Gives what has been freed back to the system.

    After a compilation glibc holds on to what the compiler has used: a third of a gigabyte for an MBT-S, and the arrays
    of the first step would come on top of it. Where the C library is another one, nothing is done.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return
    trim(0)
