"""How the C library keeps memory: by default a worker would hold on to several times what it uses."""

import ctypes

# glibc, mallopt(3).
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_ARENAS = 2
_LARGE = 256 << 10


def keep_little() -> None:
    """Give large buffers back as soon as they are let go of, and let threads share their small ones.

    glibc raises the size from which it does so as buffers come and go, and gives every thread an arena of its own.
    Does nothing where there is another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_ARENA_MAX, _ARENAS)
