"""Configures the C library's memory allocator, which by default keeps much more memory than a worker uses."""

import ctypes

# glibc, mallopt(3).
_M_ARENA_MAX = -8


def share_heap() -> None:
    """Let all threads share one heap, so that memory freed by one thread is available to the others.

    glibc uses a separate heap per thread, and many threads pack and send parts. (Returning large buffers at once keeps
    even less memory, but doubles a worker's processor time.) Does nothing with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
