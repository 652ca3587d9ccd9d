"""How the C library keeps memory: by default a worker would hold on to much more than it uses."""

import ctypes

# glibc, mallopt(3).
_M_ARENA_MAX = -8


def keep_little() -> None:
    """Let all threads share one heap, so that what one of them has let go of is there for the others.

    glibc gives every thread a heap of its own, and parts are packed and sent by many. (Giving large buffers back at
    once keeps less still, but doubles a worker's processor time.) Does nothing where there is another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
